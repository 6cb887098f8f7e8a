package store

import (
	"fmt"
	"strconv"
)

// Target names the state that generations belong to: one Checkpoint object of one cluster.
type Target struct {
	Cluster   string
	Namespace string
	// Name and UID are those of the Checkpoint object.
	Name string
	UID  string
}

// maxNameLength bounds each element of a key, as file systems and Kubernetes do.
const maxNameLength = 253

// Validate returns ErrInvalid unless every part is a plain name: letters, digits, '.', '-' and '_', no
// dot first.
func (t Target) Validate() error {
	parts := []struct{ what, value string }{
		{"cluster", t.Cluster}, {"namespace", t.Namespace}, {"name", t.Name}, {"uid", t.UID},
	}
	for _, part := range parts {
		if !plainName(part.value) {
			return fmt.Errorf("target %s %q: want 1 to %d letters, digits, '.', '-' or '_', no dot first: %w",
				part.what, part.value, maxNameLength, ErrInvalid)
		}
	}
	if both := len(t.Name) + 1 + len(t.UID); both > maxNameLength {
		return fmt.Errorf("target %s-%s: %d bytes, want name and uid to have at most %d together: %w",
			t.Name, t.UID, both, maxNameLength, ErrInvalid)
	}
	return nil
}

// Prefix is where the objects of the target live in the bucket; it ends with a slash.
func (t Target) Prefix() string {
	return "v1/" + t.Cluster + "/" + t.Namespace + "/" + t.Name + "-" + t.UID + "/"
}

func (t Target) headKey() string { return t.Prefix() + "HEAD" }

func (t Target) keyKey() string { return t.Prefix() + "KEY" }

func (t Target) manifestKey(number, epoch int64) string {
	return t.Prefix() + "gen/" + strconv.FormatInt(number, 10) + "-" + strconv.FormatInt(epoch, 10) + "/manifest"
}

func (t Target) packsPrefix() string { return t.Prefix() + "packs/" }

func (t Target) packKey(id packID) string { return t.packsPrefix() + id.String() }

func plainName(s string) bool {
	if s == "" || s[0] == '.' || len(s) > maxNameLength {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}
