// Package connections is what becomes of a program's sockets when it goes on in a pod of another address. CRIU brings back
// what is bound to all addresses or to the loopback, and gives TCP connections back as closed ones (tcp-close), both without
// help. What is bound to the address of the pod as it was it cannot bring back: Mend changes that in the images, and Add
// makes the old address one of the new pod's own, for those that asked for it.
package connections

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	sk_inet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	sk_opts "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-opts"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// filesImage is the image of open files, sockets among them.
const filesImage = "files.img"

// tcpClose is TCP_CLOSE of include/net/tcp_states.h.
const tcpClose = 7

// Mend changes those sockets in the folder of CRIU images that could not be restored under another address than they had:
//
//   - A datagram socket that is connected was given its address by the kernel as it connected. It is given one anew.
//   - A TCP connection that has ended and was not closed yet still names the port that it had. It is bound to nothing.
//   - What listens at one of the addresses kept, or has bound a datagram socket to it, is bound to all addresses: those
//     kept reach it from inside of the pod, and the new one from everywhere.
//
// It says whether there were any. Sockets bound to other addresses it leaves as they are, and the restore fails.
func Mend(images string, kept []netip.Addr) (mended bool, _ error) {
	path := filepath.Join(images, filesImage)
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("mend sockets: %w", err)
	}
	defer f.Close()
	image, err := crit.New(f, nil, "", false, false).Decode(&fdinfo.FileEntry{})
	if err != nil {
		return false, fmt.Errorf("mend sockets: decode %s: %w", path, err)
	}
	for _, e := range image.Entries {
		if file, ok := e.Message.(*fdinfo.FileEntry); ok && mend(file.GetIsk(), kept) {
			mended = true
		}
	}
	if !mended {
		return false, nil
	}
	return true, replace(path, image)
}

// mend says whether it changed the socket. Sources: open_inet_sk and gen_uncon_sk in criu/sk-inet.c.
func mend(s *sk_inet.InetSkEntry, kept []netip.Addr) bool {
	source := addressOf(s)
	if !source.IsValid() || source.IsUnspecified() || source.IsLoopback() || source.IsMulticast() || s.GetType() == unix.SOCK_RAW {
		return false
	}
	tcp, connected := s.GetProto() == unix.IPPROTO_TCP, s.GetDstPort() != 0
	switch ended := tcp && s.GetState() == tcpClose && hasEnded(s); {
	case tcp && connected:
		return false // restored as closed, and bound to nothing
	case ended && !connected:
		s.SrcPort = proto.Uint32(0)
	case !connected && !slices.Contains(kept, source):
		return false
	}
	clear(s.SrcAddr)
	return true
}

// hasEnded says whether nothing more can be read, which is so after a connection and not for a socket that waits for one.
func hasEnded(s *sk_inet.InetSkEntry) bool {
	how := s.GetShutdown()
	return s.Shutdown != nil && (how == sk_opts.SkShutdown_READ || how == sk_opts.SkShutdown_BOTH)
}

// addressOf is the address that a socket is bound to; IPv4 as such, also where the socket is one of IPv6.
func addressOf(s *sk_inet.InetSkEntry) netip.Addr {
	var raw []byte
	for _, word := range s.GetSrcAddr() {
		raw = binary.NativeEndian.AppendUint32(raw, word)
	}
	if s.GetFamily() == unix.AF_INET {
		raw = raw[:min(4, len(raw))] // the oldest images have more
	}
	address, _ := netip.AddrFromSlice(raw)
	return address.Unmap()
}

// replace puts image in the place of the one at path.
func replace(path string, image *crit.CriuImage) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "mended-")
	if err != nil {
		return fmt.Errorf("mend sockets: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := errors.Join(crit.New(nil, f, "", false, false).Encode(image), f.Close()); err != nil {
		return fmt.Errorf("mend sockets: write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("mend sockets: %w", err)
	}
	return nil
}
