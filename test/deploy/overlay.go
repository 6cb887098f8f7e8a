package deploy

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
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

// kustomization is the part of kustomize's file format that an overlay of ours uses.
type kustomization struct {
	APIVersion         string           `json:"apiVersion"`
	Kind               string           `json:"kind"`
	Namespace          string           `json:"namespace"`
	Resources          []string         `json:"resources"`
	Images             []image          `json:"images"`
	ConfigMapGenerator []generator      `json:"configMapGenerator"`
	SecretGenerator    []generator      `json:"secretGenerator"`
	GeneratorOptions   generatorOptions `json:"generatorOptions"`
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
	Literals []string `json:"literals"`
}

type generatorOptions struct {
	DisableNameSuffixHash bool `json:"disableNameSuffixHash"`
}

func overlayFolder(site Site) string {
	return filepath.Join(site.Work, "overlay")
}

// writeOverlay writes a kustomization over manifests/base for this site and returns its folder. The key that encrypts
// generations is drawn anew for each overlay: a test cluster has no older generations to read.
func writeOverlay(site Site) (string, error) {
	folder := overlayFolder(site)
	base, err := filepath.Rel(folder, filepath.Join(site.Root, "manifests", "base"))
	if err != nil {
		return "", fmt.Errorf("find manifests from %s: %w", folder, err)
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return "", fmt.Errorf("draw key: %w", err)
	}
	data, err := yaml.Marshal(overlayOf(site, base, base64.StdEncoding.EncodeToString(key)))
	if err != nil {
		return "", fmt.Errorf("encode overlay: %w", err)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("make %s: %w", folder, err)
	}
	if err := os.WriteFile(filepath.Join(folder, "kustomization.yaml"), data, 0o600); err != nil {
		return "", fmt.Errorf("write overlay: %w", err)
	}
	return folder, nil
}

func overlayOf(site Site, base, key string) kustomization {
	return kustomization{
		APIVersion: "kustomize.config.k8s.io/v1beta1",
		Kind:       "Kustomization",
		Namespace:  Namespace,
		Resources:  []string{base},
		Images:     []image{imageOf(site.Image)},
		ConfigMapGenerator: []generator{{Name: configMap, Behavior: "merge", Literals: []string{
			"LIFEBOAT_BUCKET=" + site.Bucket,
			"LIFEBOAT_CLUSTER=test",
			"LIFEBOAT_AWS_METADATA_ENDPOINT=" + site.MetadataEndpoint,
		}}},
		SecretGenerator: []generator{
			{Name: s3Secret, Literals: []string{"AWS_ACCESS_KEY_ID=" + site.AccessKey, "AWS_SECRET_ACCESS_KEY=" + site.SecretKey}},
			{Name: keySecret, Literals: []string{"key=" + key}},
		},
		GeneratorOptions: generatorOptions{DisableNameSuffixHash: true},
	}
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
