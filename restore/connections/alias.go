package connections

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrUnfit marks what cannot be the address of a pod.
var ErrUnfit = errors.New("not the address of a pod")

// refused are addresses that no pod can have had as its own: this network, the loopback, link-local ones (the metadata of
// clouds is among them), translations, multicast, and what is reserved.
var refused = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
	// What AWS, Alibaba and Azure have their nodes ask.
	netip.MustParsePrefix("fd00:ec2::/32"), netip.MustParsePrefix("100.100.100.200/32"), netip.MustParsePrefix("168.63.129.16/32"),
}

// Parse reads an address that a pod had, as a generation names it; nobody vouches for that. ErrUnfit where no pod can have had
// it.
func Parse(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return netip.Addr{}, fmt.Errorf("%w: %q", ErrUnfit, text)
	}
	if slices.ContainsFunc(refused, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return netip.Addr{}, fmt.Errorf("%w: %s is of a range that no pod has", ErrUnfit, a)
	}
	return a, nil
}

// Add gives the network namespace at path these addresses on its loopback, each alone in its network; one that is there
// already stays. Nobody outside learns of them: an answer to ARP would take the traffic of whoever has the address next.
func Add(path string, addresses []netip.Addr) error {
	return within(path, func(link netlink.Link) error {
		if slices.ContainsFunc(addresses, netip.Addr.Is4) {
			// Source: arp_ignore in Documentation/networking/ip-sysctl.rst; IPv6 is that way without being told.
			if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_ignore", []byte("1"), 0); err != nil {
				return fmt.Errorf("keep address from being announced: %w", err)
			}
		}
		for _, a := range addresses {
			if err := netlink.AddrReplace(link, alias(a)); err != nil {
				return fmt.Errorf("add address %s to lo: %w", a, err)
			}
		}
		return nil
	})
}

// Remove undoes Add. An address that is not there is no error, nor is a namespace that has gone.
func Remove(path string, addresses []netip.Addr) error {
	err := within(path, func(link netlink.Link) error {
		for _, a := range addresses {
			if err := netlink.AddrDel(link, alias(a)); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return fmt.Errorf("remove address %s from lo: %w", a, err)
			}
		}
		return nil
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// alias is the address by itself. Its scope keeps it from being taken as the source of what goes elsewhere.
func alias(a netip.Addr) *netlink.Addr {
	one := net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
	if a.Is6() {
		return &netlink.Addr{IPNet: &one, Flags: unix.IFA_F_NODAD}
	}
	return &netlink.Addr{IPNet: &one, Scope: unix.RT_SCOPE_HOST}
}

// within does something about the loopback of the network namespace at path, on a thread that ends with it.
func within(path string, do func(netlink.Link) error) error {
	namespace, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer namespace.Close()
	done := make(chan error)
	go func() {
		// Never unlocked, so that nobody else gets a thread in that namespace.
		runtime.LockOSThread()
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace %s: %w", path, err)
			return
		}
		link, err := netlink.LinkByName("lo")
		if err != nil {
			done <- fmt.Errorf("find lo in network namespace %s: %w", path, err)
			return
		}
		done <- do(link)
	}()
	return <-done
}
