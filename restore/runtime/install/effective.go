package install

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// handlerPath is where runtime handlers lie in an effective configuration (schema 3 and newer, which every containerd
// from 2.0 on dumps, whatever the schema of its files).
var handlerPath = []string{"plugins", "io.containerd.cri.v1.runtime", "containerd", "runtimes"}

// table follows a path of keys, nil where it ends early.
func table(root map[string]any, path ...string) map[string]any {
	for _, key := range path {
		next, ok := root[key].(map[string]any)
		if !ok {
			return nil
		}
		root = next
	}
	return root
}

// difference lists the keys whose values differ, as dotted paths with both values.
func difference(before, after map[string]any, path string) []string {
	var found []string
	keys := map[string]bool{}
	for key := range before {
		keys[key] = true
	}
	for key := range after {
		keys[key] = true
	}
	for key := range keys {
		name := strings.TrimPrefix(path+"."+key, ".")
		old, had := before[key]
		now, has := after[key]
		oldTable, oldIs := old.(map[string]any)
		nowTable, nowIs := now.(map[string]any)
		switch {
		case oldIs && nowIs:
			found = append(found, difference(oldTable, nowTable, name)...)
		case !had:
			found = append(found, fmt.Sprintf("%s is new", name))
		case !has:
			found = append(found, fmt.Sprintf("%s is gone", name))
		case !reflect.DeepEqual(old, now):
			found = append(found, fmt.Sprintf("%s was %v and is %v", name, old, now))
		}
	}
	slices.Sort(found)
	return found
}

// onlyAdds fails unless after is before plus the handler called name, with exactly the values of handler.
func onlyAdds(before, after map[string]any, name string, handler map[string]any) error {
	ours := table(after, append(slices.Clone(handlerPath), name)...)
	if ours == nil {
		return fmt.Errorf("containerd does not see the runtime handler %q that was added", name)
	}
	if faults := difference(withoutZeros(handler), withoutZeros(ours), name); len(faults) > 0 {
		return fmt.Errorf("containerd reads the added runtime handler otherwise than it was written: %s", strings.Join(faults, "; "))
	}
	added := strings.Join(append(slices.Clone(handlerPath), name), ".") + " is new"
	faults := difference(before, after, "")
	faults = slices.DeleteFunc(faults, func(fault string) bool { return fault == added })
	if len(faults) > 0 {
		return fmt.Errorf("adding a runtime handler would change other settings of containerd: %s",
			strings.Join(faults[:min(len(faults), 5)], "; "))
	}
	return nil
}

// withoutZeros is the table without keys that say nothing: containerd's dump spells them out, a stanza leaves them out.
func withoutZeros(from map[string]any) map[string]any {
	kept := map[string]any{}
	for key, value := range from {
		switch value := value.(type) {
		case map[string]any:
			if inner := withoutZeros(value); len(inner) > 0 {
				kept[key] = inner
			}
		case []any:
			if len(value) > 0 {
				kept[key] = value
			}
		default:
			if value != nil && !reflect.ValueOf(value).IsZero() {
				kept[key] = value
			}
		}
	}
	return kept
}
