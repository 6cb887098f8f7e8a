package connections

import (
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	sk_inet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	sk_opts "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-opts"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

const (
	established = 1
	listening   = 10
)

// socket is one of an image, as CRIU dumps it.
type socket struct {
	proto, state uint32
	source       string
	family       uint32
	toPort       uint32
	shutdown     *sk_opts.SkShutdown
	wantSource   string
	wantPort     uint32
}

func (s socket) entry() *sk_inet.InetSkEntry {
	address := netip.MustParseAddrPort(s.source)
	kind := uint32(unix.SOCK_STREAM)
	if s.proto == unix.IPPROTO_UDP {
		kind = unix.SOCK_DGRAM
	}
	raw := address.Addr().AsSlice()
	if s.family == unix.AF_INET6 {
		sixteen := address.Addr().As16()
		raw = sixteen[:]
	}
	e := &sk_inet.InetSkEntry{
		Id: proto.Uint32(1), Ino: proto.Uint32(1), Family: &s.family, Type: &kind, Proto: &s.proto, State: &s.state,
		SrcPort: proto.Uint32(uint32(address.Port())), DstPort: &s.toPort, Flags: proto.Uint32(0), Backlog: proto.Uint32(0),
		Fown: &fown.FownEntry{Uid: proto.Uint32(0), Euid: proto.Uint32(0), Signum: proto.Uint32(0), PidType: proto.Uint32(0), Pid: proto.Uint32(0)},
		Opts: &sk_opts.SkOptsEntry{SoSndbuf: proto.Uint32(1), SoRcvbuf: proto.Uint32(1), SoSndTmoSec: proto.Uint64(0), SoSndTmoUsec: proto.Uint64(0),
			SoRcvTmoSec: proto.Uint64(0), SoRcvTmoUsec: proto.Uint64(0)},
		Shutdown: s.shutdown,
	}
	for len(raw) > 0 {
		e.SrcAddr = append(e.SrcAddr, binary.NativeEndian.Uint32(raw))
		e.DstAddr = append(e.DstAddr, 0)
		raw = raw[4:]
	}
	return e
}

func TestMend(t *testing.T) {
	const tcp, udp, v4, v6 = unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.AF_INET, unix.AF_INET6
	kept := []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("fd10::5")}
	read, both, wrote := sk_opts.SkShutdown_READ, sk_opts.SkShutdown_BOTH, sk_opts.SkShutdown_WRITE
	for name, s := range map[string]socket{
		"listener on all addresses":          {tcp, listening, "0.0.0.0:80", v4, 0, nil, "0.0.0.0", 80},
		"listener on the loopback":           {tcp, listening, "127.0.0.1:80", v4, 0, nil, "127.0.0.1", 80},
		"listener on the address kept":       {tcp, listening, "10.0.0.5:80", v4, 0, nil, "0.0.0.0", 80},
		"the same through IPv6":              {tcp, listening, "10.0.0.5:80", v6, 0, nil, "::", 80},
		"listener on the IPv6 address kept":  {tcp, listening, "[fd10::5]:80", v6, 0, nil, "::", 80},
		"listener on another address":        {tcp, listening, "10.0.0.6:80", v4, 0, nil, "10.0.0.6", 80},
		"bound to the address kept":          {tcp, tcpClose, "10.0.0.5:80", v4, 0, nil, "0.0.0.0", 80},
		"connection":                         {tcp, established, "10.0.0.5:4000", v4, 80, nil, "10.0.0.5", 4000},
		"connection that has ended":          {tcp, tcpClose, "10.0.0.6:4000", v4, 0, &read, "0.0.0.0", 0},
		"ended both ways":                    {tcp, tcpClose, "10.0.0.5:4000", v4, 0, &both, "0.0.0.0", 0},
		"ended, on the loopback":             {tcp, tcpClose, "127.0.0.1:4000", v4, 0, &read, "127.0.0.1", 4000},
		"bound elsewhere, not ended":         {tcp, tcpClose, "10.0.0.6:80", v4, 0, nil, "10.0.0.6", 80},
		"bound elsewhere, writes no more":    {tcp, tcpClose, "10.0.0.6:80", v4, 0, &wrote, "10.0.0.6", 80},
		"packets to one address":             {udp, established, "10.0.0.6:4000", v4, 53, nil, "0.0.0.0", 4000},
		"packets to one IPv6 address":        {udp, established, "[fd10::6]:4000", v6, 53, nil, "::", 4000},
		"packets to the loopback":            {udp, established, "[::1]:4000", v6, 53, nil, "::1", 4000},
		"packets, bound to the address kept": {udp, tcpClose, "10.0.0.5:53", v4, 0, nil, "0.0.0.0", 53},
		"packets, bound to another address":  {udp, tcpClose, "10.0.0.6:53", v4, 0, nil, "10.0.0.6", 53},
		"packets of a group":                 {udp, tcpClose, "239.1.1.1:53", v4, 0, nil, "239.1.1.1", 53},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f, err := os.Create(filepath.Join(dir, filesImage))
			require.NoError(t, err)
			kind := fdinfo.FdTypes_INETSK
			image := &crit.CriuImage{Magic: "FILES", EntryType: &fdinfo.FileEntry{}, Entries: []*crit.CriuEntry{
				{Message: &fdinfo.FileEntry{Type: &kind, Id: proto.Uint32(1), Isk: s.entry()}},
			}}
			require.NoError(t, crit.New(nil, f, "", false, false).Encode(image))
			require.NoError(t, f.Close())

			mended, err := Mend(dir, kept)
			require.NoError(t, err)
			f, err = os.Open(filepath.Join(dir, filesImage))
			require.NoError(t, err)
			defer f.Close()
			after, err := crit.New(f, nil, "", false, false).Decode(&fdinfo.FileEntry{})
			require.NoError(t, err)
			got := after.Entries[0].Message.(*fdinfo.FileEntry).GetIsk()
			want := s
			want.source = netip.AddrPortFrom(netip.MustParseAddr(s.wantSource), uint16(s.wantPort)).String()
			require.True(t, proto.Equal(want.entry(), got), got)
			require.Equal(t, want.source != s.source, mended)
		})
	}
	t.Run("no image", func(t *testing.T) {
		mended, err := Mend(t.TempDir(), kept)
		require.NoError(t, err)
		require.False(t, mended)
	})
	t.Run("no image of CRIU", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, filesImage), []byte("something else"), 0o600))
		_, err := Mend(dir, kept)
		require.ErrorContains(t, err, "mend sockets: decode")
	})
}
