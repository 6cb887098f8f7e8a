package nodeinit

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseOrder(t *testing.T) {
	for _, c := range []struct {
		name  string
		args  []string
		order order
		only  []string
		value bool
	}{
		{"restart", []string{"restart", "containerd"}, order{"restart", "containerd"}, nil, false},
		{"flags anywhere", []string{"--no-block", "restart", "containerd.service", "--quiet"}, order{"restart", "containerd.service"}, nil, false},
		{"one property", []string{"show", "-p", "MainPID", "--value", "kubelet"}, order{"show", "kubelet"}, []string{"MainPID"}, true},
		{"properties", []string{"show", "kubelet", "--property=Id,SubState"}, order{"show", "kubelet"}, []string{"Id", "SubState"}, false},
		{"no unit", []string{"daemon-reload"}, order{"daemon-reload", ""}, nil, false},
		{"nothing", nil, order{}, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, only, value := parseOrder(c.args)
			require.Equal(t, c.order, o)
			require.Equal(t, c.only, only)
			require.Equal(t, c.value, value)
		})
	}
}

func TestDescribe(t *testing.T) {
	for _, c := range []struct {
		name, verb string
		pid        int
		output     string
		exit       int
	}{
		{"active", "is-active", 7, "active\n", 0},
		{"inactive", "is-active", 0, "inactive\n", exitInactive},
		{"unknown verb", "mask", 7, "Unknown operation mask.\n", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := describe(c.verb, containerd, c.pid)
			require.Equal(t, c.output, r.Output)
			require.Equal(t, c.exit, r.Exit)
		})
	}
}

func TestFilterProperties(t *testing.T) {
	text := describe("show", kubelet, 7).Output
	require.Equal(t, "7\n", filterProperties(text, []string{"MainPID"}, true))
	require.Equal(t, "ActiveState=active\nMainPID=7\n", filterProperties(text, []string{"MainPID", "ActiveState"}, false))
	require.Equal(t, text, filterProperties(text, nil, false))
}
