package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

// TestMetricsAreThoseOfTheDocument holds the table of docs/operations.md and what the agent exposes together, by name.
func TestMetricsAreThoseOfTheDocument(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	require.NoError(t, err)
	raw, _, _ = bytes.Cut(raw, []byte("## Metrics of the controller"))
	var documented []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(lifeboat_[a-z_]+)` \\| (counter|gauge|histogram) \\|").FindAllSubmatch(raw, -1) {
		documented = append(documented, string(m[1]))
	}
	name := regexp.MustCompile(`fqName: "([^"]+)"`)
	descriptions := make(chan *prometheus.Desc, 1000)
	for _, c := range append(newMeters().collectors(), newHealth(":0").since) {
		c.Describe(descriptions)
	}
	close(descriptions)
	var exposed []string
	for d := range descriptions {
		exposed = append(exposed, name.FindStringSubmatch(d.String())[1])
	}
	slices.Sort(documented)
	slices.Sort(exposed)
	require.Equal(t, documented, exposed)
}
