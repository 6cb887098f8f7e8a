package eligible

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// tables are those of sockets in a network namespace with the states in which one holds on to its address: TCP_LISTEN, and
// TCP_CLOSE for datagrams to anybody. What is connected has an address that the kernel chose, or is given back as closed.
// Source: /proc/net/tcp in Documentation/networking, udp4_seq_show in net/ipv4/udp.c.
var tables = map[string]string{"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}

// bound returns the sockets of the task's network that are bound to an address that will be another pod's: not all addresses,
// not the loopback or a group, none of kept. They are ADDRESS:PORT by inode. Nil where kept is nil.
func (t *task) bound(kept []string) (map[string]string, error) {
	if kept == nil {
		return nil, nil
	}
	found := map[string]string{}
	for name, state := range tables {
		text, err := os.ReadFile(filepath.Join(t.folder, "net", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list sockets: %w", err)
		}
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) < 10 || fields[3] != state {
				continue
			}
			local, err := parseLocal(fields[1])
			if err != nil {
				return nil, fmt.Errorf("list sockets: %s: %w", name, err)
			}
			if a := local.Addr(); !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && a != broadcast && !slices.Contains(kept, a.String()) {
				found[fields[9]] = local.String()
			}
		}
	}
	return found, nil
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// parseLocal parses an address of /proc/net: words in hexadecimal, each as the machine has it, and the port. IPv4 in IPv6
// comes back as IPv4.
func parseLocal(text string) (netip.AddrPort, error) {
	words, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(words)
	number, fault := strconv.ParseUint(port, 16, 16)
	if err = errors.Join(err, fault); err != nil {
		return netip.AddrPort{}, fmt.Errorf("parse address %q: %w", text, err)
	}
	for i := 0; i+4 <= len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	a, ok := netip.AddrFromSlice(raw)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("parse address %q: %d bytes", text, len(raw))
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(number)), nil
}
