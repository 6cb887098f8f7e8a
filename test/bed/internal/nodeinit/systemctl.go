package nodeinit

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/test/bed/internal/layout"
)

// The units of a node.
const (
	containerd = "containerd"
	kubelet    = "kubelet"
)

// controlSocket is where pid 1 takes orders, inside the node.
const controlSocket = "/run/bed/init.sock"

// orderTimeout bounds one order, a restart included.
const orderTimeout = time.Minute

// Exit statuses of systemctl(1).
const (
	exitInactive    = 3
	exitUnknownUnit = 5
)

type order struct {
	Verb string `json:"verb"`
	Unit string `json:"unit"`
}

type reply struct {
	Output string `json:"output"`
	Exit   int    `json:"exit"`
}

// control serves systemctl.
func (n *node) control(ctx context.Context) error {
	l, err := net.Listen("unix", controlSocket)
	if err != nil {
		return fmt.Errorf("serve systemctl: %w", err)
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("serve systemctl: %w", err)
		}
		go n.answer(ctx, c)
	}
}

func (n *node) answer(ctx context.Context, c net.Conn) {
	defer c.Close()
	var o order
	if json.NewDecoder(c).Decode(&o) != nil {
		return
	}
	n.log.Info().Str("verb", o.Verb).Str("unit", o.Unit).Msg("systemctl")
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	_ = json.NewEncoder(c).Encode(n.obey(ctx, o))
}

func (n *node) obey(ctx context.Context, o order) reply {
	unit := strings.TrimSuffix(o.Unit, ".service")
	s := n.services[unit]
	if o.Verb == "daemon-reload" {
		return reply{}
	}
	if s == nil {
		return reply{Output: fmt.Sprintf("Unit %s could not be found.\n", o.Unit), Exit: exitUnknownUnit}
	}
	switch o.Verb {
	case "restart", "try-restart", "reload-or-restart":
		s.Restart(syscall.SIGTERM)
	case "start":
		s.Start()
	case "stop":
		s.Stop(syscall.SIGTERM)
		return reply{}
	default:
		return describe(o.Verb, unit, s.PID())
	}
	if unit == containerd {
		if err := awaitSocket(ctx, layout.ContainerdSocket); err != nil {
			return reply{Output: err.Error() + "\n", Exit: 1}
		}
	}
	return reply{}
}

func describe(verb, unit string, pid int) reply {
	state, sub, exit := "active", "running", 0
	if pid == 0 {
		state, sub, exit = "inactive", "dead", exitInactive
	}
	switch verb {
	case "is-active":
		return reply{Output: state + "\n", Exit: exit}
	case "is-enabled":
		return reply{Output: "enabled\n"}
	case "status":
		return reply{Output: fmt.Sprintf("%s.service\n   Active: %s (%s)\n Main PID: %d\n", unit, state, sub, pid), Exit: exit}
	case "show":
		return reply{Output: fmt.Sprintf("Id=%s.service\nLoadState=loaded\nActiveState=%s\nSubState=%s\nMainPID=%d\n",
			unit, state, sub, pid)}
	}
	return reply{Output: fmt.Sprintf("Unknown operation %s.\n", verb), Exit: 1}
}

// Systemctl is the node's systemctl: enough of it to restart and look at containerd and the kubelet. It understands
// restart, start, stop, is-active, is-enabled, status, show [-p NAME] [--value] and daemon-reload, and returns the exit
// status.
func Systemctl(args []string, out io.Writer) (int, error) {
	o, only, value := parseOrder(args)
	c, err := net.Dial("unix", controlSocket)
	if err != nil {
		return 1, fmt.Errorf("reach pid 1: %w", err)
	}
	defer c.Close()
	var r reply
	if err := json.NewEncoder(c).Encode(o); err != nil {
		return 1, fmt.Errorf("ask pid 1: %w", err)
	}
	if err := json.NewDecoder(c).Decode(&r); err != nil {
		return 1, fmt.Errorf("hear pid 1: %w", err)
	}
	if o.Verb == "show" {
		r.Output = filterProperties(r.Output, only, value)
	}
	_, err = io.WriteString(out, r.Output)
	return r.Exit, err
}

func parseOrder(args []string) (o order, only []string, value bool) {
	var words []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case (a == "-p" || a == "--property") && i+1 < len(args):
			i++
			only = append(only, strings.Split(args[i], ",")...)
		case strings.HasPrefix(a, "--property="):
			only = append(only, strings.Split(strings.TrimPrefix(a, "--property="), ",")...)
		case a == "--value":
			value = true
		case !strings.HasPrefix(a, "-"):
			words = append(words, a)
		}
	}
	if len(words) > 0 {
		o.Verb = words[0]
	}
	if len(words) > 1 {
		o.Unit = words[1]
	}
	return o, only, value
}

func filterProperties(text string, only []string, value bool) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		name, v, _ := strings.Cut(line, "=")
		if len(only) > 0 && !slices.Contains(only, name) {
			continue
		}
		if value {
			line = v
		}
		b.WriteString(line)
	}
	return b.String()
}
