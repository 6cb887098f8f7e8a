package node

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"testing"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/restore/handover"
)

// networkOfPod makes a network namespace and a bundle that joins it, on a host. What it returns lists the namespace's
// addresses.
func networkOfPod(t *testing.T, host string) (bundle string, addresses func() []string) {
	t.Helper()
	asked, answers := make(chan chan []string), make(chan int)
	go func() {
		goruntime.LockOSThread() // the thread and its namespace end with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			panic(err)
		}
		answers <- unix.Gettid()
		for ask := range asked {
			all, _ := net.InterfaceAddrs()
			var texts []string
			for _, a := range all {
				texts = append(texts, a.String())
			}
			ask <- texts
		}
	}()
	t.Cleanup(func() { close(asked) })
	path := filepath.Join("/proc", strconv.Itoa(os.Getpid()), "task", strconv.Itoa(<-answers), "ns/net")
	require.NoError(t, os.MkdirAll(filepath.Join(host, "bundle"), 0o700))
	require.NoError(t, os.MkdirAll(filepath.Join(host, filepath.Dir(path)), 0o700))
	require.NoError(t, os.Symlink(path, filepath.Join(host, path)))
	config := fmt.Sprintf(`{"mounts":[{"destination":"/etc/resolv.conf","source":"/resolv.conf"}],"linux":{"namespaces":[{"type":"network","path":%q}]}}`, path)
	require.NoError(t, os.WriteFile(filepath.Join(host, "bundle/config.json"), []byte(config), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(host, "resolv.conf"), []byte("nameserver 10.96.0.10\n"), 0o600))
	return "/bundle", func() []string {
		ask := make(chan []string)
		asked <- ask
		return <-ask
	}
}

func podAt(name, uid, ip string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(uid)},
		Status:     corev1.PodStatus{PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}},
	}
}

func TestAddressesOfThePodBefore(t *testing.T) {
	t.Setenv(apiServer, "10.96.0.1")
	own, err := net.InterfaceAddrs()
	require.NoError(t, err)
	here := slices.IndexFunc(own, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr().IsGlobalUnicast()
	})
	require.GreaterOrEqual(t, here, 0, "the test wants a machine with an address")
	ended := podAt("ended", "p3", "10.244.0.7")
	ended.Status.Phase = corev1.PodSucceeded
	dual := podAt("dual", "p4", "10.244.0.8")
	dual.Status.PodIPs = append(dual.Status.PodIPs, corev1.PodIP{IP: "fd10::8"})
	pods := []*corev1.Pod{podAt("source", "old", "10.244.0.5"), podAt("other", "p2", "10.244.0.6"), ended, dual}
	client := fake.NewClientset()
	client.PrependReactor("list", "pods", func(action k8stesting.Action) (bool, runtime.Object, error) {
		// As the API server does, which knows a pod by its first address alone.
		selector := action.(k8stesting.ListAction).GetListRestrictions().Fields
		found := &corev1.PodList{}
		for _, pod := range pods {
			if selector.Matches(fields.Set{"status.podIP": pod.Status.PodIP}) {
				found.Items = append(found.Items, *pod)
			}
		}
		return true, found, nil
	})

	for _, c := range []struct {
		name string
		keep bool
		ips  []string
		want []string
		told string
	}{
		{"not asked for", false, []string{"10.244.0.5"}, nil, ""},
		{"nothing known", true, nil, nil, ""},
		{"the source's, which is still there", true, []string{"10.244.0.5"}, []string{"10.244.0.5/32"}, ""},
		{"two families", true, []string{"10.244.0.5", "fd10::5"}, []string{"10.244.0.5/32", "fd10::5/128"}, ""},
		{"of a pod that has ended", true, []string{"10.244.0.7"}, []string{"10.244.0.7/32"}, ""},
		{"another pod has it", true, []string{"10.244.0.5", "10.244.0.6"}, []string{"10.244.0.5/32"}, "ns/other has it by now"},
		{"another pod has it beside its first one", true, []string{"10.244.0.5", "fd10::8"}, []string{"10.244.0.5/32"}, "ns/dual has it by now"},
		{"metadata", true, []string{"169.254.169.254"}, nil, "range that no pod has"},
		{"no address", true, []string{"10.244.0.0/16"}, nil, "not the address of a pod"},
		{"API server", true, []string{"10.96.0.1"}, nil, "API server or DNS"},
		{"DNS", true, []string{"10.96.0.10"}, nil, "API server or DNS"},
		{"this node", true, []string{netip.MustParsePrefix(own[here].String()).Addr().String()}, nil, "this node has it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			host := t.TempDir()
			bundle, addresses := networkOfPod(t, host)
			events := record.NewFakeRecorder(5)
			p := New(Options{NodeName: "b", HostRoot: host, Client: client, Events: events, Log: zerolog.Nop()})
			task := task{PrepareRequest: handover.PrepareRequest{Namespace: "ns", Pod: "job", PodUID: "new", Bundle: bundle}, KeepIPs: c.keep}
			gen := &v1alpha1.GenerationReference{PodUID: "old", PodIPs: c.ips}
			require.NoError(t, p.adapt(t.Context(), task, gen, "/images"))
			require.NoError(t, p.adapt(t.Context(), task, gen, "/images"), "a second attempt")
			require.Equal(t, c.want, addresses())
			if c.told == "" {
				require.Empty(t, events.Events)
			} else {
				require.Contains(t, <-events.Events, c.told)
			}
			require.NoError(t, p.letGo(task, gen))
			require.Empty(t, addresses())
		})
	}
}
