package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/connections"
)

const (
	// apiServer is the variable that names the cluster's own address of the API server, in every pod.
	apiServer = "KUBERNETES_SERVICE_HOST"
	// eventNotKept is the reason of the event that tells why a pod does not have the address of the pod before.
	eventNotKept = "AddressNotKept"
)

// adapt fits the fetched images to the address of the pod of t, and gives it those of the pod before where its owner asks
// for that. An address that cannot be kept stops nothing: what was bound to it is bound to all addresses.
func (p *Preparer) adapt(ctx context.Context, t task, gen *v1alpha1.GenerationReference, images string) error {
	var before []netip.Addr
	if t.KeepIPs {
		before = p.keep(ctx, t, gen)
	}
	mended, err := connections.Mend(filepath.Join(p.options.HostRoot, images), before)
	if err != nil {
		return applied(err)
	}
	if mended {
		p.options.Log.Info().Str("namespace", t.Namespace).Str("pod", t.Pod).Msg("sockets fitted to the new address")
	}
	return nil
}

// keep gives the pod of t the addresses that gen names, as far as nothing speaks against that, and returns all that can have
// been a pod's.
func (p *Preparer) keep(ctx context.Context, t task, gen *v1alpha1.GenerationReference) []netip.Addr {
	var before []netip.Addr
	for _, ip := range gen.PodIPs {
		a, err := connections.Parse(ip)
		if err == nil {
			before = append(before, a)
			err = p.alias(ctx, t, gen, a)
		}
		if err != nil {
			p.event(types.UID(t.PodUID), t.PrepareRequest, corev1.EventTypeWarning, eventNotKept,
				fmt.Sprintf("address %.45q of the pod before is not kept: %s", ip, err))
		}
	}
	return before
}

// alias gives the pod of t one address in addition, unless it would lose sight of what it must reach.
func (p *Preparer) alias(ctx context.Context, t task, gen *v1alpha1.GenerationReference, a netip.Addr) error {
	bundle, err := connections.ReadBundle(p.options.HostRoot, t.Bundle)
	if err != nil {
		return err
	}
	services := bundle.Nameservers
	if s, err := netip.ParseAddr(os.Getenv(apiServer)); err == nil {
		services = append(services, s)
	}
	if slices.Contains(services, a) {
		return errors.New("the cluster's API server or DNS has it")
	}
	own, err := net.InterfaceAddrs() // the agent is on the host's network
	if err != nil {
		return fmt.Errorf("list addresses of this node: %w", err)
	}
	if slices.ContainsFunc(own, func(n net.Addr) bool {
		prefix, err := netip.ParsePrefix(n.String())
		return err == nil && prefix.Addr() == a
	}) {
		return errors.New("this node has it")
	}
	if err := p.nobodyHas(ctx, t, gen, a); err != nil {
		return err
	}
	return connections.Add(filepath.Join(p.options.HostRoot, bundle.Network), []netip.Addr{a})
}

// nobodyHas fails where another pod than the source has the address by now. Pods of the host's network have their node's.
func (p *Preparer) nobodyHas(ctx context.Context, t task, gen *v1alpha1.GenerationReference, a netip.Addr) error {
	// A field selector knows a pod's first address alone, not its second one of a cluster with both families.
	pods, err := p.options.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("look for other pods that have it: %w", err)
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		if string(pod.UID) != t.PodUID && pod.UID != gen.PodUID && !ended &&
			slices.Contains(pod.Status.PodIPs, corev1.PodIP{IP: a.String()}) {
			return fmt.Errorf("pod %s/%s has it by now", pod.Namespace, pod.Name)
		}
	}
	return nil
}

// letGo takes the addresses of gen from the pod of t again.
func (p *Preparer) letGo(t task, gen *v1alpha1.GenerationReference) error {
	var before []netip.Addr
	for _, ip := range gen.PodIPs {
		if a, err := connections.Parse(ip); err == nil && t.KeepIPs {
			before = append(before, a)
		}
	}
	if len(before) == 0 {
		return nil
	}
	bundle, err := connections.ReadBundle(p.options.HostRoot, t.Bundle)
	if err != nil {
		return err
	}
	return connections.Remove(filepath.Join(p.options.HostRoot, bundle.Network), before)
}
