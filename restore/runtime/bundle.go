package runtime

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

// Annotations of a bundle. The first group is written by containerd's CRI plugin (pkg/cri/annotations); the last one is
// v1alpha1.AnnotationRestoreFrom, which is not imported for the weight of its package.
const (
	annotationContainerType = "io.kubernetes.cri.container-type"
	annotationNamespace     = "io.kubernetes.cri.sandbox-namespace"
	annotationPod           = "io.kubernetes.cri.sandbox-name"
	annotationPodUID        = "io.kubernetes.cri.sandbox-uid"
	annotationSandboxID     = "io.kubernetes.cri.sandbox-id"
	annotationContainer     = "io.kubernetes.cri.container-name"
	annotationRestoreFrom   = "lifeboat.dev/restore-from"

	containerTypeContainer = "container"
	containerTypeSandbox   = "sandbox"
)

// bundleConfig is what the wrapper reads of an OCI bundle's config.json.
type bundleConfig struct {
	Annotations map[string]string `json:"annotations"`
	Linux       struct {
		Namespaces []struct {
			Type string `json:"type"`
			Path string `json:"path"`
		} `json:"namespaces"`
	} `json:"linux"`
}

// readBundle reads config.json of the bundle in dir.
func readBundle(dir string) (bundleConfig, error) {
	var config bundleConfig
	path := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return config, fmt.Errorf("read bundle: %w", err)
	}
	if err := json.Unmarshal(data, &config); err != nil {
		return config, fmt.Errorf("read bundle %s: %w", path, err)
	}
	return config, nil
}

// utsPath is the UTS namespace that the container joins, empty where it gets its own.
func (c bundleConfig) utsPath() string {
	for _, namespace := range c.Linux.Namespaces {
		if namespace.Type == "uts" {
			return namespace.Path
		}
	}
	return ""
}

// prepareRequest is the question to the agent about this container.
func (c bundleConfig) prepareRequest(id, bundle string) handover.PrepareRequest {
	return handover.PrepareRequest{
		ContainerID: id,
		Bundle:      bundle,
		Namespace:   c.Annotations[annotationNamespace],
		Pod:         c.Annotations[annotationPod],
		PodUID:      c.Annotations[annotationPodUID],
		Container:   c.Annotations[annotationContainer],
		SandboxID:   c.Annotations[annotationSandboxID],
		RestoreFrom: c.Annotations[annotationRestoreFrom],
	}
}
