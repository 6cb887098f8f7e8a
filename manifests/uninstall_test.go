package manifests_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// The overlay is a site's own: its agents are installed with a flag that uninstalling must keep.
func TestUninstallTurnsAgentsAroundAndSparesWhatIsToStay(t *testing.T) {
	objects := render(t, writeUninstall(t, `
patches:
  - target: {kind: DaemonSet, name: lifeboat-agent}
    patch: |-
      - {op: add, path: /spec/template/spec/initContainers/0/command/-, value: --restart-command=service containerd restart}
`))
	for _, object := range objects {
		switch object.(type) {
		case *apiextensionsv1.CustomResourceDefinition:
			t.Fatal("deleting the CRD would delete every Checkpoint")
		case *corev1.Namespace:
			t.Fatal("deleting the namespace would delete the key")
		case *admissionv1.MutatingWebhookConfiguration:
			t.Fatal("pods would be given a RuntimeClass that is going")
		}
	}
	spec := only(t, objects, func(*appsv1.DaemonSet) bool { return true }).Spec.Template.Spec
	require.Equal(t, []string{"lifeboat-agent", "uninstall", "--host-root", "/host", "--restart-command=service containerd restart"},
		spec.InitContainers[0].Command)
	require.True(t, *spec.InitContainers[0].SecurityContext.Privileged)
	require.False(t, *spec.AutomountServiceAccountToken)
	left := spec.Containers[0]
	require.Equal(t, []string{"sleep", "infinity"}, left.Command)
	require.Nil(t, left.SecurityContext.Privileged)
	require.Empty(t, left.VolumeMounts)
	require.Empty(t, left.EnvFrom)
}

// writeUninstall writes a site's overlay with more in it, and manifests/uninstall over it, and returns the latter's folder.
func writeUninstall(t *testing.T, more string) string {
	top, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	write := func(folder, text string, paths ...string) string {
		folder = filepath.Join(top, folder)
		require.NoError(t, os.Mkdir(folder, 0o755))
		for _, path := range paths {
			absolute, err := filepath.Abs(path)
			require.NoError(t, err)
			relative, err := filepath.Rel(folder, absolute)
			require.NoError(t, err)
			text += "\n- " + relative
		}
		require.NoError(t, os.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte(text+"\n"), 0o600))
		return folder
	}
	write("site", more+"resources:", "base")
	return write("gone", "resources: [../site]\ncomponents:", "uninstall")
}
