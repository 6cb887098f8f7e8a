// Package environment lets variables stand in for the flags of our commands.
package environment

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// Fill sets every flag that was not given and has a LIFEBOAT_* variable, named after it: --node-name is
// LIFEBOAT_NODE_NAME. The error joins those of all values that a flag does not take.
func Fill(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var faults []error
	flags.VisitAll(func(f *pflag.Flag) {
		name := "LIFEBOAT_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := lookup(name)
		if !ok || f.Changed {
			return
		}
		if err := f.Value.Set(value); err != nil {
			faults = append(faults, fmt.Errorf("%s=%q: %w", name, value, err))
		}
	})
	return errors.Join(faults...)
}
