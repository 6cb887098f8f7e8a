package eligible

import (
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/snapshot"
)

// bindTo holds a socket that is bound to an address, whether the machine has it or not; a stream socket listens.
func bindTo(kind int, address string) func() error {
	return func() error {
		a := netip.MustParseAddr(address)
		family, to := unix.AF_INET, unix.Sockaddr(nil)
		if a.Is4() {
			to = &unix.SockaddrInet4{Addr: a.As4()}
		} else {
			family, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: a.As16()}
		}
		fd, err := unix.Socket(family, kind, 0)
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1)
		}
		if err == nil {
			err = unix.Bind(fd, to)
		}
		if err == nil && kind == unix.SOCK_STREAM {
			err = unix.Listen(fd, 1)
		}
		return err
	}
}

// connectPackets holds a datagram socket of the address that the kernel chose for its peer.
func connectPackets() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: 53, Addr: [4]byte{127, 0, 0, 2}})
	}
	return err
}

func init() {
	for name, address := range map[string]string{
		"all4": "0.0.0.0", "all6": "::", "loop4": "127.0.0.1", "loop6": "::1", "own4": "10.1.2.3", "own6": "fd12::3", "mapped": "::ffff:10.1.2.4",
	} {
		holds["tcp-"+name], holds["udp-"+name] = bindTo(unix.SOCK_STREAM, address), bindTo(unix.SOCK_DGRAM, address)
	}
	holds["udp-group"], holds["udp-connected"] = bindTo(unix.SOCK_DGRAM, "239.1.2.3"), connectPackets
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		name  string
		holds []string
		kept  []string
		says  []string
	}{
		{"none", []string{"null"}, nil, nil},
		{"all, loopback, group, connected", []string{
			"tcp-all4", "tcp-all6", "udp-all4", "udp-all6", "tcp-loop4", "tcp-loop6", "udp-loop4", "udp-loop6", "udp-group", "udp-connected",
		}, nil, nil},
		{"listener", []string{"tcp-own4"}, nil, []string{"(10.1.2.3:", v1alpha1.AnnotationKeepPodIPAlias, "bind to 0.0.0.0"}},
		{"listener of IPv6", []string{"tcp-own6"}, nil, []string{"([fd12::3]:"}},
		{"listener of IPv4 through IPv6", []string{"tcp-mapped"}, nil, []string{"(10.1.2.4:"}},
		{"packets", []string{"udp-own4"}, nil, []string{"(10.1.2.3:"}},
		{"packets of IPv6", []string{"udp-own6"}, nil, []string{"([fd12::3]:"}},
		{"kept", []string{"tcp-own4", "udp-own6"}, []string{"10.1.2.3", "fd12::3"}, nil},
		{"another than those kept", []string{"tcp-own4", "tcp-mapped"}, []string{"10.1.2.3"}, []string{"(10.1.2.4:"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			process := hold(t, nil, c.holds...)
			target := snapshot.Target{Containers: []snapshot.Container{{PID: process.Pid}}, KeepsIPs: c.kept != nil, PodIPs: c.kept}
			found, err := Looker{Proc: "/proc"}.Look(t.Context(), target, 0)
			require.NoError(t, err)
			if c.says == nil {
				require.Empty(t, found)
				return
			}
			require.Equal(t, []string{v1alpha1.ReasonPodAddressBound}, reasonsOf(found))
			for _, text := range c.says {
				require.Contains(t, found[0].Message, text)
			}
		})
	}
	t.Run("for a dump nobody asks", func(t *testing.T) {
		found, err := Looker{Proc: "/proc"}.Tasks(hold(t, nil, "tcp-own4").Pid)
		require.NoError(t, err)
		require.Empty(t, found)
	})
}

func FuzzParseLocal(f *testing.F) {
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/udp6"} {
		text, err := os.ReadFile(table)
		require.NoError(f, err)
		f.Add(string(text))
	}
	f.Add("0100007F:0050")
	f.Add("0000000000000000FFFF00000403020A:1F90")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := parseLocal(text)
		require.Equal(t, err == nil, a.IsValid())
	})
}
