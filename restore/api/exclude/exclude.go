// Package exclude says which files of a pod are no part of its generations, by the pod's annotation
// v1alpha1.AnnotationExclude: caches, scratch space and whatever else the program can make anew.
//
// The annotation is a list of patterns with commas between them:
//
//	layer:<path>          files that any container wrote in its root file system
//	volume:<name>         all of an emptyDir volume
//	volume:<name>/<path>  files in it
//	shm:<path>            files in /dev/shm
//
// A path is relative to the tree's root. Its elements are those of path.Match, and an element ** stands for any number of
// names: none included, but at the end, where it is what is below a folder and not the folder. What a pattern matches is left out with all that is below it. A file that is left out is not there
// after a restore, and one that was deleted from the image's own files is there again. A program that has such a file open,
// or has it as working directory, cannot be restored.
package exclude

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/lifeboat-dev/lifeboat/restore/api/layout"
)

// ErrInvalid marks a pattern that is none. The message names which, why, and what to write.
var ErrInvalid = errors.New("invalid exclusion")

// maxPatterns bounds what each file of a target is compared with.
const maxPatterns = 64

// Patterns are what is left out. The zero value leaves nothing out.
type Patterns struct {
	// patterns begin with the elements of a tree's root: layers and *, shm, or volumes and a name.
	patterns [][]string
}

// Parse reads the annotation's value, which may be empty. Its error joins one ErrInvalid for each bad pattern.
func Parse(value string) (Patterns, error) {
	var p Patterns
	var faults []error
	if strings.TrimSpace(value) == "" {
		return p, nil
	}
	for i, text := range strings.Split(value, ",") {
		pattern, err := parse(strings.TrimSpace(text))
		if err != nil {
			faults = append(faults, fmt.Errorf("%w: pattern %d, %q: %w", ErrInvalid, i+1, strings.TrimSpace(text), err))
			continue
		}
		p.patterns = append(p.patterns, pattern)
	}
	if len(p.patterns) > maxPatterns {
		faults = append(faults, fmt.Errorf("%w: %d patterns, want at most %d: use ** to match more with one", ErrInvalid, len(p.patterns), maxPatterns))
	}
	if len(faults) > 0 {
		return Patterns{}, errors.Join(faults...)
	}
	return p, nil
}

func parse(text string) ([]string, error) {
	tree, rest, ok := strings.Cut(text, ":")
	if !ok {
		return nil, errors.New("it names no tree: begin it with layer:, volume: or shm: and a path")
	}
	var root []string
	switch tree {
	case "layer":
		root = []string{layout.Layers, "*"}
	case "shm":
		root = []string{layout.SHM}
	case "volume":
		var name string
		name, rest, ok = strings.Cut(rest, "/")
		if name == "" || strings.ContainsAny(name, `*?[\`) {
			return nil, errors.New("it names no volume: write volume:<name> or volume:<name>/<path>")
		}
		root = []string{layout.Volumes, name}
		if !ok {
			return root, nil
		}
	default:
		return nil, fmt.Errorf("unknown tree %q: want layer, volume or shm", tree)
	}
	return below(root, rest)
}

func below(root []string, rest string) ([]string, error) {
	switch {
	case rest == "":
		return nil, errors.New("it has no path: write ** for all of the tree")
	case strings.HasPrefix(rest, "/"):
		return nil, fmt.Errorf("its path is absolute: write %s", strings.TrimLeft(rest, "/"))
	case path.Clean(rest) != rest || rest == "." || strings.HasPrefix(rest, "../") || rest == "..":
		return nil, errors.New("its path is not clean: write it without . and .. and with single slashes")
	}
	elements := strings.Split(rest, "/")
	for _, element := range elements {
		if strings.Contains(element, "**") && element != "**" {
			return nil, fmt.Errorf("** is part of %q: it must be an element of its own; use * within a name", element)
		}
		if _, err := path.Match(element, ""); err != nil {
			return nil, fmt.Errorf("%q is malformed: close the bracket, or put a backslash before it", element)
		}
	}
	return append(root, elements...), nil
}

// Match says whether the entry of that path in a generation is left out by itself; its caller leaves out what is below.
func (p Patterns) Match(entry string) bool {
	if len(p.patterns) == 0 {
		return false
	}
	elements := strings.Split(entry, "/")
	for _, pattern := range p.patterns {
		if match(pattern, elements) {
			return true
		}
	}
	return false
}

// match tells whether a pattern matches all the elements. It looks back to the last ** alone, so that no pattern is slow.
func match(pattern, elements []string) bool {
	at, i := 0, 0
	back, from := -1, 0
	for i < len(elements) {
		switch {
		case at < len(pattern) && pattern[at] == "**":
			back, from = at, i
			at++
		case at < len(pattern) && matchOne(pattern[at], elements[i]):
			at, i = at+1, i+1
		case back >= 0:
			from++
			at, i = back+1, from
		default:
			return false
		}
	}
	return at == len(pattern)
}

func matchOne(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return err == nil && ok
}
