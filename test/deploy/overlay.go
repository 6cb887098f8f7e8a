package deploy

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// Names that the manifests and the binaries agree on.
const (
	configMap = "lifeboat-config"
	s3Secret  = "lifeboat-s3"
	keySecret = "lifeboat-key"
	// imageName is what manifests/base calls the image.
	imageName = "lifeboat"
)

// keyFile holds the key that encrypts generations, beside the overlay.
const keyFile = "lifeboat.key"

const kustomizeAPI = "kustomize.config.k8s.io/v1beta1"

// kustomization is the part of kustomize's file format that an overlay of ours uses.
type kustomization struct {
	APIVersion         string      `json:"apiVersion"`
	Kind               string      `json:"kind"`
	Namespace          string      `json:"namespace"`
	Resources          []string    `json:"resources"`
	Components         []string    `json:"components,omitempty"`
	Images             []image     `json:"images,omitempty"`
	ConfigMapGenerator []generator `json:"configMapGenerator,omitempty"`
	SecretGenerator    []generator `json:"secretGenerator,omitempty"`
	Patches            []patch     `json:"patches,omitempty"`
}

type patch struct {
	Patch string `json:"patch"`
}

type image struct {
	Name    string `json:"name"`
	NewName string `json:"newName"`
	NewTag  string `json:"newTag,omitempty"`
	Digest  string `json:"digest,omitempty"`
}

type generator struct {
	Name     string   `json:"name"`
	Behavior string   `json:"behavior,omitempty"`
	Literals []string `json:"literals,omitempty"`
	Files    []string `json:"files,omitempty"`
}

// mountFolder gives the agents a folder of their node under the same path. Without it a file bucket would lie in the
// agent's own container and end with it.
const mountFolder = `apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: lifeboat-agent
spec:
  template:
    spec:
      containers:
        - name: agent
          volumeMounts:
            - {name: bucket, mountPath: %[1]q}
      volumes:
        - name: bucket
          hostPath: {path: %[1]q, type: Directory}
`

func overlayFolder(site Site) string {
	return filepath.Join(site.Work, "overlay")
}

// writeOverlay writes a kustomization over manifests/base for this site and returns its folder. A key that is there
// already stays, so that a second installation can read what the first one wrote.
func writeOverlay(site Site) (string, error) {
	folder := overlayFolder(site)
	base, err := filepath.Rel(folder, filepath.Join(site.Root, "manifests", "base"))
	if err != nil {
		return "", fmt.Errorf("find manifests from %s: %w", folder, err)
	}
	if err := writeKustomization(folder, overlayOf(site, base)); err != nil {
		return "", err
	}
	return folder, makeKey(filepath.Join(folder, keyFile))
}

// writeRemoval writes a kustomization that puts manifests/uninstall over the site's overlay and returns its folder.
func writeRemoval(site Site) (string, error) {
	folder := filepath.Join(site.Work, "uninstall")
	over, err := filepath.Rel(folder, overlayFolder(site))
	if err != nil {
		return "", fmt.Errorf("find overlay from %s: %w", folder, err)
	}
	component, err := filepath.Rel(folder, filepath.Join(site.Root, "manifests", "uninstall"))
	if err != nil {
		return "", fmt.Errorf("find manifests from %s: %w", folder, err)
	}
	return folder, writeKustomization(folder, kustomization{
		APIVersion: kustomizeAPI, Kind: "Kustomization", Namespace: Namespace,
		Resources: []string{over}, Components: []string{component},
	})
}

func writeKustomization(folder string, k kustomization) error {
	data, err := yaml.Marshal(k)
	if err != nil {
		return fmt.Errorf("encode overlay: %w", err)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", folder, err)
	}
	if err := os.WriteFile(filepath.Join(folder, "kustomization.yaml"), data, 0o600); err != nil {
		return fmt.Errorf("write overlay: %w", err)
	}
	return nil
}

// makeKey writes 32 random bytes in base64, unless the file exists.
func makeKey(path string) error {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return fmt.Errorf("draw key: %w", err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("create key: %w", err)
	}
	_, err = file.WriteString(base64.StdEncoding.EncodeToString(key))
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	return nil
}

func overlayOf(site Site, base string) kustomization {
	k := kustomization{
		APIVersion: kustomizeAPI,
		Kind:       "Kustomization",
		Namespace:  Namespace,
		Resources:  []string{base},
		Images:     []image{imageOf(site.Image)},
		ConfigMapGenerator: []generator{{Name: configMap, Behavior: "merge", Literals: []string{
			"LIFEBOAT_BUCKET=" + site.Bucket,
			"LIFEBOAT_CLUSTER=" + Cluster,
		}}},
		SecretGenerator: []generator{{Name: keySecret, Files: []string{"key=" + keyFile}}},
	}
	config := &k.ConfigMapGenerator[0]
	config.Literals = append(config.Literals, site.Settings...)
	if site.MetadataEndpoint != "" {
		config.Literals = append(config.Literals, "LIFEBOAT_AWS_METADATA_ENDPOINT="+site.MetadataEndpoint)
	}
	if site.AccessKey != "" {
		k.SecretGenerator = append(k.SecretGenerator, generator{Name: s3Secret, Literals: []string{
			"AWS_ACCESS_KEY_ID=" + site.AccessKey, "AWS_SECRET_ACCESS_KEY=" + site.SecretKey,
		}})
	}
	if folder, isFile := strings.CutPrefix(site.Bucket, "file://"); isFile {
		k.Patches = []patch{{Patch: fmt.Sprintf(mountFolder, folder)}}
	}
	return k
}

// imageOf splits a reference the way kustomize wants it. The colon of a registry's port is no tag.
func imageOf(reference string) image {
	if name, digest, found := strings.Cut(reference, "@"); found {
		return image{Name: imageName, NewName: name, Digest: digest}
	}
	slash, colon := strings.LastIndex(reference, "/"), strings.LastIndex(reference, ":")
	if colon > slash {
		return image{Name: imageName, NewName: reference[:colon], NewTag: reference[colon+1:]}
	}
	return image{Name: imageName, NewName: reference}
}
