package nodeinit

import (
	"bytes"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"text/template"

	"github.com/lifeboat-dev/lifeboat/test/bed/internal/layout"
)

//go:embed files
var templates embed.FS

// Paths inside a node.
const (
	shimPath    = libFolder + "/prlimit-shim.so"
	kubePKI     = "/etc/kubernetes/pki"
	kubeletConf = "/etc/kubernetes/kubelet.conf"
	provisioned = "/var/lib/bed-provisioned"
)

// provision writes the node's files, once in its life: what others change later (containerd's configuration) stays
// over a restart of the node, as it does on a real machine.
func provision(c layout.NodeConfig) error {
	if _, err := os.Stat(provisioned); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for name, target := range map[string]string{
		"containerd.toml": "/etc/containerd/config.toml",
		"cni.conflist":    "/etc/cni/net.d/10-bed.conflist",
		"kubelet.yaml":    "/etc/kubernetes/kubelet.yaml",
		"hosts":           "/etc/hosts",
	} {
		if err := render(name, target, c); err != nil {
			return err
		}
	}
	for file, text := range map[string]string{
		"/etc/hostname":    c.Name + "\n",
		"/etc/resolv.conf": "",
		"/etc/machine-id":  randomID() + "\n",
	} {
		if err := writeFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if c.Shim != "" {
		if err := writeFile("/etc/ld.so.preload", []byte(shimPath+"\n"), 0o644); err != nil {
			return err
		}
	}
	if err := errors.Join(os.RemoveAll("/usr/bin/systemctl"), os.Symlink(libFolder+"/bed", "/usr/bin/systemctl")); err != nil {
		return fmt.Errorf("put systemctl in its place: %w", err)
	}
	return writeFile(provisioned, nil, 0o644)
}

// carryKeys copies the kubelet's keys into the node; it runs before the root is left.
func carryKeys(c layout.NodeConfig, root string) error {
	for from, to := range map[string]string{
		"ca.crt":                         kubePKI + "/ca.crt",
		"node-" + c.Name + ".crt":        kubePKI + "/kubelet.crt",
		"node-" + c.Name + ".key":        kubePKI + "/kubelet.key",
		"node-" + c.Name + ".kubeconfig": kubeletConf,
	} {
		b, err := os.ReadFile(filepath.Join(c.Dir.PKI(), from))
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(root, to), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func render(name, target string, c layout.NodeConfig) error {
	t, err := template.ParseFS(templates, "files/"+name)
	if err != nil {
		return fmt.Errorf("parse %s: %w", name, err)
	}
	var b bytes.Buffer
	err = t.Execute(&b, map[string]any{"Node": c.Node, "PauseImage": layout.PauseImage, "Socket": layout.ContainerdSocket,
		"PKI": kubePKI, "Cgroup": "/" + layout.CgroupName(c.Suffix, c.Name), "BucketAddress": layout.HubAddress})
	if err != nil {
		return fmt.Errorf("render %s: %w", name, err)
	}
	return writeFile(target, b.Bytes(), 0o644)
}

func writeFile(path string, b []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b, mode)
}

func randomID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
