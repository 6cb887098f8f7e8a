package runtime

import (
	"slices"
	"strconv"
	"strings"
)

// Invocation is a command line of runc, taken apart as far as the wrapper needs. Globals, Command and Args put together
// are the command line as it came.
type Invocation struct {
	// Globals are the arguments before the subcommand.
	Globals []string
	// Command is the subcommand, empty where there is none.
	Command string
	// Args are the arguments after the subcommand.
	Args []string
	// Log, LogFormat and Root are the values of the global flags of that name.
	Log, LogFormat, Root string
}

// Flags are the arguments of a subcommand: flags by name without dashes, and the rest in order.
type Flags struct {
	Values     map[string]string
	Positional []string
}

// Subcommands of runc 1.0 to 1.4 and crun. They tell a subcommand from the value of a global flag that is not known here.
var subcommands = []string{
	"checkpoint", "create", "delete", "events", "exec", "features", "help", "init", "kill", "list", "mounts", "pause",
	"ps", "restore", "resume", "run", "spec", "start", "state", "update",
}

// Flags that take no value. A flag that is in neither list takes the next argument as its value where that is neither a
// flag nor, among the global flags, a subcommand.
var switches = []string{
	"a", "all", "debug", "f", "force", "h", "help", "no-new-keyring", "no-pivot", "systemd-cgroup", "v", "version",
}

var valueFlags = []string{
	"b", "bundle", "console-socket", "criu", "log", "log-format", "pid-file", "pidfd-socket", "preserve-fds", "root",
	"rootless",
}

// ParseInvocation takes apart the arguments of runc, without the program's name. It accepts whatever it is given:
// complaining about a wrong command line is left to the runtime beneath.
func ParseInvocation(args []string) Invocation {
	flags, at := parseFlags(args, true)
	call := Invocation{Globals: args[:at], Log: flags.Values["log"], LogFormat: flags.Values["log-format"], Root: flags.Values["root"]}
	if at < len(args) {
		call.Command, call.Args = args[at], args[at+1:]
	}
	return call
}

// ParseFlags takes apart the arguments of a subcommand. Flags may stand before, between and after the others, with one
// dash or two, as "--flag value" or "--flag=value"; "--" ends them.
func ParseFlags(args []string) Flags {
	flags, _ := parseFlags(args, false)
	return flags
}

// Bool says whether the switch is set.
func (f Flags) Bool(names ...string) bool {
	for _, name := range names {
		if value, ok := f.Values[name]; ok {
			on, err := strconv.ParseBool(value)
			return err == nil && on
		}
	}
	return false
}

// Value is the value of the first of these names that is given, or empty.
func (f Flags) Value(names ...string) string {
	for _, name := range names {
		if value, ok := f.Values[name]; ok {
			return value
		}
	}
	return ""
}

// parseFlags reads flags until the arguments end or, where global is set, until the subcommand, whose index it returns.
func parseFlags(args []string, global bool) (Flags, int) {
	flags := Flags{Values: map[string]string{}}
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			if global {
				return flags, min(i+1, len(args))
			}
			flags.Positional = append(flags.Positional, args[i+1:]...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' {
			if global {
				return flags, i
			}
			flags.Positional = append(flags.Positional, arg)
			continue
		}
		name, value, inline := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
		if !inline {
			value = "true"
			if next := i + 1; next < len(args) && takesNext(name, args[next], global) {
				i, value = next, args[next]
			}
		}
		flags.Values[name] = value
	}
	return flags, len(args)
}

// takesNext says whether next is the value of the flag that stands before it.
func takesNext(name, next string, global bool) bool {
	switch {
	case slices.Contains(switches, name):
		return false
	case slices.Contains(valueFlags, name):
		return true
	case strings.HasPrefix(next, "-"):
		return false
	default:
		return global && !slices.Contains(subcommands, next)
	}
}
