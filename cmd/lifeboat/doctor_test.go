package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/lifeboat-dev/lifeboat/restore/api/obstacle"
	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

func protectedPod() *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "job", UID: "pod-1", Labels: map[string]string{v1alpha1.LabelProtect: "true"}},
		Spec:       corev1.PodSpec{NodeName: "a", Containers: []corev1.Container{{Name: "main"}}},
	}
}

func safe() *v1alpha1.Checkpoint {
	c := &v1alpha1.Checkpoint{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Checkpoint"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "job"},
		Status:     v1alpha1.CheckpointStatus{Pod: &v1alpha1.PodReference{Name: "job", UID: "pod-1", NodeName: "a"}},
	}
	s := &c.Status
	s.SetCondition(v1alpha1.ConditionProtectable, metav1.ConditionTrue, v1alpha1.ReasonProtected, "protected on node a")
	s.SetCondition(v1alpha1.ConditionDumpable, metav1.ConditionTrue, v1alpha1.ReasonNothingFound, "")
	s.Protection = &v1alpha1.Protection{PodUID: "pod-1", Level: "Safe"}
	s.SetCondition(v1alpha1.ConditionCurrent, metav1.ConditionTrue, v1alpha1.ReasonWithinShare, "Safe: 3s")
	return c
}

func refuse(s *v1alpha1.CheckpointStatus, kind, reason, message string) {
	s.SetCondition(kind, metav1.ConditionFalse, reason, message)
}

func TestDiagnosis(t *testing.T) {
	found := obstacle.Text([]obstacle.Obstacle{{Reason: v1alpha1.ReasonIOUring, Message: "io_uring in node; without"}, {Reason: v1alpha1.ReasonMPTCP, Message: "mptcp; without"}})
	for _, c := range []struct {
		name           string
		pod            func(*corev1.Pod)
		checkpoint     func(*v1alpha1.Checkpoint)
		none           bool
		reasons, notes []string
		says           string
	}{
		{name: "safe", says: "pod team/job on node a: nothing stands in the way of its survival; verdict: Safe\n"},
		{name: "at risk", checkpoint: func(c *v1alpha1.Checkpoint) {
			c.Status.Protection.Level = "AtRisk"
			refuse(&c.Status, v1alpha1.ConditionCurrent, v1alpha1.ReasonNoSafetyDump, "AtRisk: wait")
		}, notes: []string{v1alpha1.ReasonNoSafetyDump}, says: "To know:\n  NoSafetyDump (the time that a notice leaves)\n    AtRisk: wait\n"},
		{name: "unprotected by the clock", checkpoint: func(c *v1alpha1.Checkpoint) {
			c.Status.Protection.Level = "Unprotected"
			refuse(&c.Status, v1alpha1.ConditionCurrent, v1alpha1.ReasonFilesTooLarge, "Unprotected: too much")
		}, reasons: []string{v1alpha1.ReasonFilesTooLarge}},
		{name: "found on the node, and taken over", checkpoint: func(c *v1alpha1.Checkpoint) {
			c.Status.Protection.Level = "Unprotected"
			refuse(&c.Status, v1alpha1.ConditionDumpable, v1alpha1.ReasonIOUring, found)
			refuse(&c.Status, v1alpha1.ConditionProtectable, v1alpha1.ReasonIOUring, found)
			refuse(&c.Status, v1alpha1.ConditionCurrent, v1alpha1.ReasonIOUring, "Unprotected: "+found)
		}, reasons: []string{v1alpha1.ReasonIOUring, v1alpha1.ReasonMPTCP}, says: "To mend:\n  IOUring (what runs in it, as its node's agent sees it)\n    io_uring in node\n    without\n  MPTCP"},
		{name: "spec, told once", pod: func(p *corev1.Pod) { p.Spec.HostPID, p.Spec.HostNetwork = true, true }, checkpoint: func(c *v1alpha1.Checkpoint) {
			refuse(&c.Status, v1alpha1.ConditionProtectable, v1alpha1.ReasonHostPID, "as above")
		}, reasons: []string{v1alpha1.ReasonHostPID, v1alpha1.ReasonHostNetwork}},
		{name: "no agent", checkpoint: func(c *v1alpha1.Checkpoint) {
			refuse(&c.Status, v1alpha1.ConditionProtectable, v1alpha1.ReasonNodeNotReady, "no agent; look")
		}, reasons: []string{v1alpha1.ReasonNodeNotReady}},
		{name: "not looked at yet", checkpoint: func(c *v1alpha1.Checkpoint) {
			c.Status.Conditions, c.Status.Protection = c.Status.Conditions[:1], nil
		}, notes: []string{"NotLooked"}},
		{name: "settings", pod: func(p *corev1.Pod) { p.Annotations = map[string]string{v1alpha1.AnnotationInterval: "soon"} },
			notes: []string{v1alpha1.ReasonSettingInvalid}, says: "write a number and a unit"},
		{name: "no label", pod: func(p *corev1.Pod) { p.Labels, p.Spec.HostIPC = nil, true }, none: true,
			reasons: []string{v1alpha1.ReasonHostIPC, reasonNotLabelled}, says: "kubectl -n team label --overwrite pod job lifeboat.dev/protect=true"},
		{name: "no Checkpoint", none: true, reasons: []string{reasonNoCheckpoint}, says: "lifeboat-controller"},
		{name: "the Checkpoint of another pod", pod: func(p *corev1.Pod) { p.UID = "pod-2" }, reasons: []string{reasonNoCheckpoint}},
		{name: "ended", pod: func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, reasons: []string{v1alpha1.ReasonPodEnded}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod, checkpoint := protectedPod(), safe()
			if c.pod != nil {
				c.pod(pod)
			}
			if c.checkpoint != nil {
				c.checkpoint(checkpoint)
			}
			if c.none {
				checkpoint = nil
			}
			server := clusterOf(t, pod, checkpoint)
			code, out, errOut := doctorSays(t, server, "pod", "job", "-n", "team")
			require.Contains(t, out, c.says)
			require.Equal(t, map[bool]int{true: exitFine, false: exitFound}[len(c.reasons) == 0], code, errOut)
			for _, format := range []string{"json", "yaml"} {
				_, out, _ := doctorSays(t, server, "pod", "job", "-n", "team", "-o", format)
				var got diagnosis
				if format == "json" {
					require.NoError(t, json.Unmarshal([]byte(out), &got))
				} else {
					require.NoError(t, yaml.UnmarshalStrict([]byte(out), &got))
				}
				require.Equal(t, c.reasons, names(got.Reasons))
				require.Equal(t, c.notes, names(got.Notes))
				require.Equal(t, len(c.reasons) == 0, got.Survives)
			}
		})
	}
}

func names(findings []finding) []string {
	var out []string
	for _, f := range findings {
		out = append(out, f.Reason)
	}
	return out
}

func TestDoctorsExits(t *testing.T) {
	server := clusterOf(t, protectedPod(), safe())
	for _, c := range []struct {
		name, server string
		args         []string
		code         int
		says         string
	}{
		{"help", server, nil, exitFine, ""},
		{"unknown command", server, []string{"patient"}, exitUsage, "lifeboat doctor --help"},
		{"no name", server, []string{"pod"}, exitUsage, "the NAME of a pod"},
		{"unknown output", server, []string{"pod", "job", "-o", "xml"}, exitUsage, "neither text, json nor yaml"},
		{"no such pod", server, []string{"pod", "other", "-n", "team"}, exitFound, "there is no pod other in namespace team"},
		{"no cluster", "http://127.0.0.1:1", []string{"pod", "job"}, exitFailed, "get pod default/job"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, _, errOut := doctorSays(t, c.server, c.args...)
			require.Equal(t, c.code, code, errOut)
			require.Contains(t, errOut, c.says)
		})
	}
}

func doctorSays(t *testing.T, server string, args ...string) (code int, out, errOut string) {
	t.Helper()
	config := filepath.Join(t.TempDir(), "config")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {}}]
current-context: c
`, server), 0o600))
	var stdout, stderr strings.Builder
	code = run(t.Context(), append([]string{"doctor", "--kubeconfig", config}, args...), func(string) (string, bool) { return "", false }, &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

// clusterOf is an API server with one pod and its Checkpoint.
func clusterOf(t *testing.T, pod *corev1.Pod, checkpoint *v1alpha1.Checkpoint) string {
	t.Helper()
	objects := map[string]any{"/api/v1/namespaces/team/pods/job": pod}
	if checkpoint != nil {
		objects["/apis/lifeboat.dev/v1alpha1/namespaces/team/checkpoints/job"] = checkpoint
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		object, ok := objects[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			object = metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Reason: metav1.StatusReasonNotFound, Code: 404}
		}
		if err := json.NewEncoder(w).Encode(object); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}
