package install

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/pelletier/go-toml/v2"
)

// newSchema is that of a main file which is not there yet: every containerd from 2.0 on reads it.
const newSchema = 3

// dropInName is our file in a folder that containerd's main file imports.
const dropInName = "lifeboat.toml"

// heading opens every file that is ours from the first byte to the last.
const heading = "# Written by lifeboat-agent install. `lifeboat-agent uninstall` removes it.\n"

// Our part of a main file that imports nothing stands between these lines, newline before it included, so that cutting
// it out leaves what was there byte for byte.
const (
	blockStart = "\n# lifeboat: begin. Written by lifeboat-agent install; `lifeboat-agent uninstall` removes this block.\n"
	blockEnd   = "# lifeboat: end.\n"
)

// configuration is containerd's as it stands on the host, with our own part taken out of it.
type configuration struct {
	host Host
	// path is the main file on the host.
	path string
	// main is the main file without our part; nil where there is no such file (or it is all ours).
	main []byte
	// parsed is main as a table, never nil; schema its version.
	parsed map[string]any
	schema int64
	// dropIn is the host path of our drop-in, empty where the main file imports no folder for it.
	dropIn string
}

// readConfiguration reads the main file and finds out where our stanza belongs.
func readConfiguration(host Host, path string) (configuration, error) {
	c := configuration{host: host, path: path, parsed: map[string]any{}, schema: newSchema}
	data, err := os.ReadFile(host.Path(path))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return c, fmt.Errorf("read containerd's configuration: %w", err)
	}
	if err != nil || bytes.HasPrefix(data, []byte(heading)) {
		return c, nil
	}
	c.main = cutBlock(data)
	if err := toml.Unmarshal(c.main, &c.parsed); err != nil {
		return c, fmt.Errorf("containerd's configuration %s is broken, mend it first: %w", path, err)
	}
	// containerd takes a file without a version to be of its newest schema, so newSchema fits there as well.
	if version, ok := c.parsed["version"].(int64); ok {
		c.schema = version
	}
	for _, pattern := range c.imports() {
		candidate := filepath.Join(filepath.Dir(pattern), dropInName)
		if ok, err := filepath.Match(pattern, candidate); err == nil && ok {
			c.dropIn = candidate
			break
		}
	}
	return c, nil
}

// cutBlock returns data without our block.
func cutBlock(data []byte) []byte {
	start := bytes.Index(data, []byte(blockStart))
	if start < 0 {
		return data
	}
	length := bytes.Index(data[start:], []byte(blockEnd))
	if length < 0 {
		return data
	}
	// Not nil even where nothing is left: an empty file is not a missing one.
	return append(append([]byte{}, data[:start]...), data[start+length+len(blockEnd):]...)
}

// imports are the main file's, as absolute host paths or patterns.
func (c configuration) imports() []string {
	list, _ := c.parsed["imports"].([]any)
	var patterns []string
	for _, entry := range list {
		pattern, ok := entry.(string)
		if !ok {
			continue
		}
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(filepath.Dir(c.path), pattern)
		}
		patterns = append(patterns, pattern)
	}
	return patterns
}

// change is what to write where: a nil text means no such file.
type change struct {
	// path is on the host.
	path string
	text []byte
}

// removal is what to write so that nothing of ours is left.
func (c configuration) removal() []change {
	changes := []change{{path: c.path, text: c.main}}
	if c.dropIn != "" {
		changes = append(changes, change{path: c.dropIn})
	}
	return changes
}

// addition is what to write so that the stanza is there: the drop-in where one is imported, else a block at the end of
// the main file, else a main file. It is the removal with one text replaced.
func (c configuration) addition(stanza string) []change {
	changes := c.removal()
	whole := []byte(fmt.Sprintf("%sversion = %d\n\n%s", heading, c.schema, stanza))
	switch {
	case c.dropIn != "":
		changes[1].text = whole
	case c.main == nil:
		changes[0].text = whole
	default:
		changes[0].text = slices.Concat(c.main, []byte(blockStart), []byte(stanza), []byte(blockEnd))
	}
	return changes
}

// stage writes a main file into dir (a host path) that means the same as the configuration after the changes, and
// returns its host path. Nothing that containerd reads is touched.
func (c configuration) stage(dir string, changes []change) (string, error) {
	main := map[string]any{"version": c.schema}
	imports, err := c.otherImports()
	if err != nil {
		return "", err
	}
	for _, change := range changes {
		switch {
		case change.path == c.path:
			if err := toml.Unmarshal(change.text, &main); err != nil {
				return "", fmt.Errorf("our stanza does not fit into %s (are its runtimes an inline table?): %w", c.path, err)
			}
		case change.text != nil:
			staged := filepath.Join(dir, dropInName)
			if _, err := writeFile(c.host.Path(staged), change.text, 0o600); err != nil {
				return "", err
			}
			imports = append(imports, staged)
		}
	}
	main["imports"] = imports
	text, err := toml.Marshal(main)
	if err != nil {
		return "", fmt.Errorf("stage %s: %w", c.path, err)
	}
	staged := filepath.Join(dir, "config.toml")
	_, err = writeFile(c.host.Path(staged), text, 0o600)
	return staged, err
}

// otherImports are the files that the main file imports, ours left out, as host paths.
func (c configuration) otherImports() ([]string, error) {
	var files []string
	for _, pattern := range c.imports() {
		matches, err := filepath.Glob(c.host.Path(pattern))
		if err != nil {
			return nil, fmt.Errorf("read the imports of %s: %w", c.path, err)
		}
		for _, match := range matches {
			if match != c.host.Path(c.dropIn) {
				files = append(files, filepath.Join("/", match[len(filepath.Clean(c.host.Root)):]))
			}
		}
	}
	return files, nil
}
