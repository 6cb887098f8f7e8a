// Package layout says where the parts of a container's state stand within a generation, and which mounts of a container
// hold state of its own. Source and destination both go by it; it imports the standard library alone.
package layout

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// Trees of a generation: the first element of an entry's path.
const (
	// Images holds images/<container>/<CRIU image>.
	Images = "images"
	// Layers holds layers/<container>/…: each container's writable layer, an overlay's upper directory.
	Layers = "layers"
	// Volumes holds volumes/<name of emptyDir volume>/….
	Volumes = "volumes"
	// SHM is the pod's /dev/shm, as its sandbox has it. A volume that a container mounts there is that volume.
	SHM = "shm"
)

// emptyDirs stands in the host paths of emptyDir volumes, of memory and of disk. Source: the kubelet's
// pkg/kubelet/kubelet_getters.go and pkg/volume/emptydir.
const emptyDirs = "/volumes/kubernetes.io~empty-dir/"

// podVolume is what the host paths of a pod's volumes have in common, whatever the kubelet's folder is. A sandbox's /dev/shm is
// elsewhere: in the runtime's folder of the sandbox. Source: as above, and pkg/volume/util/subpath.
var podVolume = regexp.MustCompile(`/pods/[^/]+/volume(s|-subpaths)/`)

// hostSHM is where programs have it, and the node's own: that is nobody's state.
const hostSHM = "/dev/shm"

// ImagePath is the path of a CRIU image of a container.
func ImagePath(container, image string) string { return path.Join(Images, container, image) }

// LayerPath is the root of a container's writable layer.
func LayerPath(container string) string { return path.Join(Layers, container) }

// StateMounts are the mounts of a container that hold state of its own, as host paths.
type StateMounts struct {
	// Volumes maps names of emptyDir volumes to their folders.
	Volumes map[string]string
	// SHM is the sandbox's folder behind /dev/shm; empty where the container has none of it.
	SHM string
}

// ReadStateMounts reads them out of config.json of an OCI bundle, which stands at that path for this process.
func ReadStateMounts(bundle string) (StateMounts, error) {
	raw, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return StateMounts{}, fmt.Errorf("read container's mounts: %w", err)
	}
	var config struct {
		Mounts []struct{ Destination, Source string }
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		return StateMounts{}, fmt.Errorf("decode config.json of bundle %s: %w", bundle, err)
	}
	m := StateMounts{Volumes: map[string]string{}}
	for _, mount := range config.Mounts {
		// A subPath mount has its source elsewhere and shows a part of the volume only.
		if _, name, ok := strings.Cut(mount.Source, emptyDirs); ok && !strings.Contains(name, "/") {
			m.Volumes[name] = mount.Source
		}
		if mount.Destination == hostSHM && path.IsAbs(mount.Source) && mount.Source != hostSHM && !podVolume.MatchString(mount.Source) {
			m.SHM = mount.Source
		}
	}
	return m, nil
}
