package install

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Handler is the name of the runtime handler, which the RuntimeClass names.
const Handler = "lifeboat"

// annotations are passed on to the bundle of a container of our handler.
const annotations = "lifeboat.dev/*"

// runcType is the runtime type that runs runc and its likes.
const runcType = "io.containerd.runc.v2"

// modelHandler is the handler that ours shall be like: the default one where it is of runc's type, else the one called
// runc.
func modelHandler(effective map[string]any) (map[string]any, error) {
	section := table(effective, handlerPath[:len(handlerPath)-1]...)
	name, _ := section["default_runtime_name"].(string)
	for _, name := range []string{name, "runc"} {
		if handler := table(section, "runtimes", name); handler["runtime_type"] == runcType {
			return handler, nil
		}
	}
	return nil, fmt.Errorf("containerd's configuration has no runtime handler of type %s, neither as its default nor "+
		"called runc: add one, Lifeboat runs containers through it", runcType)
}

// beneath is the binary that the model handler runs.
func beneath(model map[string]any) (string, error) {
	name, _ := table(model, "options")["BinaryName"].(string)
	if strings.HasPrefix(name, Prefix+"/") {
		return "", errors.New("containerd's default runtime handler is Lifeboat's own: set default_runtime_name to " +
			"another one, for Lifeboat needs a runtime beneath it")
	}
	return first(name, "runc"), nil
}

// ourHandler is the model, with our wrapper as its binary and our annotations passed on.
func ourHandler(model map[string]any) map[string]any {
	handler := withoutZeros(model)
	options := maps.Clone(table(handler, "options"))
	if options == nil {
		options = map[string]any{}
	}
	options["BinaryName"] = Prefix + "/bin/lifeboat-runtime"
	handler["options"] = options
	for _, key := range []string{"pod_annotations", "container_annotations"} {
		list, _ := handler[key].([]any)
		if !slices.Contains(list, any(annotations)) {
			list = append(slices.Clone(list), annotations)
		}
		handler[key] = list
	}
	return handler
}

// pluginOf names the plugin that holds runtime handlers in files of a schema version.
func pluginOf(schema int64) (string, error) {
	switch {
	case schema == 2:
		return "io.containerd.grpc.v1.cri", nil
	case schema >= 3:
		return "io.containerd.cri.v1.runtime", nil
	}
	return "", fmt.Errorf("containerd's configuration is of schema version %d, which Lifeboat cannot extend: "+
		"`containerd config migrate` prints it in the newest", schema)
}

// stanza is the text of a handler for a file of that schema, without the file's version line.
func stanza(schema int64, handler map[string]any) (string, error) {
	plugin, err := pluginOf(schema)
	if err != nil {
		return "", err
	}
	plain := maps.Clone(handler)
	delete(plain, "options")
	header := fmt.Sprintf("plugins.'%s'.containerd.runtimes.%s", plugin, Handler)
	var text strings.Builder
	for _, part := range []struct {
		name string
		body map[string]any
	}{{header, plain}, {header + ".options", table(handler, "options")}} {
		body, err := toml.Marshal(part.body)
		if err != nil {
			return "", fmt.Errorf("write the runtime handler: %w", err)
		}
		fmt.Fprintf(&text, "[%s]\n%s", part.name, body)
	}
	return text.String(), nil
}
