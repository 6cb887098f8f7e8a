package connections

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Bundle is what an OCI bundle says of a container's network.
type Bundle struct {
	// Network is the path of the network namespace that the container joins, as the host sees it.
	Network string
	// Nameservers are those of its /etc/resolv.conf.
	Nameservers []netip.Addr
}

// ReadBundle reads the OCI bundle in dir of a host whose root is seen at hostRoot.
func ReadBundle(hostRoot, dir string) (Bundle, error) {
	raw, err := os.ReadFile(filepath.Join(hostRoot, dir, "config.json"))
	if err != nil {
		return Bundle{}, fmt.Errorf("read bundle: %w", err)
	}
	var config struct {
		Mounts []struct{ Destination, Source string }
		Linux  struct {
			Namespaces []struct{ Type, Path string }
		}
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		return Bundle{}, fmt.Errorf("decode bundle %s: %w", dir, err)
	}
	var b Bundle
	for _, n := range config.Linux.Namespaces {
		if n.Type == "network" {
			b.Network = n.Path
		}
	}
	if b.Network == "" {
		return Bundle{}, fmt.Errorf("bundle %s joins no network namespace", dir)
	}
	for _, m := range config.Mounts {
		if m.Destination == "/etc/resolv.conf" {
			b.Nameservers, err = nameservers(filepath.Join(hostRoot, m.Source))
		}
	}
	return b, err
}

// nameservers reads those of a resolv.conf; there are none where there is no file.
func nameservers(path string) ([]netip.Addr, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read nameservers: %w", err)
	}
	var out []netip.Addr
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "nameserver" {
			if a, err := netip.ParseAddr(words[1]); err == nil {
				out = append(out, a.Unmap())
			}
		}
	}
	return out, nil
}
