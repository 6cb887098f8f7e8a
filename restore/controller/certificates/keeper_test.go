package certificates

import (
	"context"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

const (
	namespace, secretName, configName = "lifeboat-system", "lifeboat-webhook", "lifeboat"
	serverName                        = "lifeboat-webhook.lifeboat-system.svc"
)

var start = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// cluster is an API server that refuses stale writes, with a webhook configuration.
type cluster struct {
	t *testing.T
	*fake.Clientset
	version int
}

func newCluster(t *testing.T) *cluster {
	config := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: configName, ResourceVersion: "1"}}
	config.Webhooks = []admissionv1.MutatingWebhook{{Name: "pods.lifeboat.dev"}}
	c := &cluster{t: t, Clientset: fake.NewClientset(config), version: 1}
	versioned := func(action clienttesting.Action) (bool, runtime.Object, error) {
		write := action.(clienttesting.CreateAction) // an update is one, too
		o, err := meta.Accessor(write.GetObject())
		require.NoError(t, err)
		if action.GetVerb() == "update" {
			now, err := c.Tracker().Get(action.GetResource(), o.GetNamespace(), o.GetName())
			require.NoError(t, err)
			stored, err := meta.Accessor(now)
			require.NoError(t, err)
			if stored.GetResourceVersion() != o.GetResourceVersion() {
				return true, nil, apierrors.NewConflict(action.GetResource().GroupResource(), o.GetName(), errors.New("stale"))
			}
		}
		c.version++
		o.SetResourceVersion(strconv.Itoa(c.version))
		return false, nil, nil
	}
	c.PrependReactor("create", "*", versioned)
	c.PrependReactor("update", "*", versioned)
	return c
}

func (c *cluster) keeper() *Keeper {
	return &Keeper{Client: c, Namespace: namespace, Secret: secretName, Service: "lifeboat-webhook", Configuration: configName, Log: logr.Discard()}
}

func (c *cluster) secret() *corev1.Secret {
	s, err := c.CoreV1().Secrets(namespace).Get(c.t.Context(), secretName, metav1.GetOptions{})
	require.NoError(c.t, err)
	return s
}

func (c *cluster) change(f func(map[string][]byte)) {
	s := c.secret()
	f(s.Data)
	_, err := c.CoreV1().Secrets(namespace).Update(c.t.Context(), s, metav1.UpdateOptions{})
	require.NoError(c.t, err)
}

func (c *cluster) deleteSecret() {
	require.NoError(c.t, c.CoreV1().Secrets(namespace).Delete(c.t.Context(), secretName, metav1.DeleteOptions{}))
}

func (c *cluster) bundle() []byte {
	config, err := c.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(c.t.Context(), configName, metav1.GetOptions{})
	require.NoError(c.t, err)
	return config.Webhooks[0].ClientConfig.CABundle
}

// call is an API server's handshake: it trusts bundle, and its clock says now.
func call(k *Keeper, bundle []byte, now time.Time) error {
	certificate, err := k.GetCertificate(nil)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	_, err = certificate.Leaf.Verify(x509.VerifyOptions{DNSName: serverName, Roots: roots, CurrentTime: now})
	return err
}

func look(t *testing.T, k *Keeper, now time.Time) time.Duration {
	t.Helper()
	wait, err := k.look(t.Context(), now)
	require.NoError(t, err)
	return wait
}

func TestReplicasServeWithOneAuthority(t *testing.T) {
	c := newCluster(t)
	a, b := c.keeper(), c.keeper()
	require.Error(t, a.Ready(nil))
	look(t, a, start)
	look(t, b, start.Add(time.Second))
	require.Len(t, decode(c.secret().Data, start), 1)
	for _, k := range []*Keeper{a, b} {
		require.NoError(t, k.Ready(nil))
		for _, skew := range []time.Duration{0, -23 * time.Hour, 23 * time.Hour} {
			require.NoError(t, call(k, c.bundle(), start.Add(skew)))
		}
	}
	require.NotEqual(t, a.serving.Leaf.Raw, b.serving.Leaf.Raw, "keys are shared by nobody")
	version := c.version
	look(t, a, start.Add(time.Minute))
	require.Equal(t, version, c.version, "nothing to do, nothing written")
}

func TestTheServingCertificateIsMadeAnewInTime(t *testing.T) {
	c := newCluster(t)
	k := c.keeper()
	look(t, k, start)
	first := k.serving
	look(t, k, start.Add(19*24*time.Hour))
	require.Same(t, first, k.serving)
	look(t, k, start.Add(21*24*time.Hour))
	require.NotSame(t, first, k.serving)
	require.NoError(t, call(k, c.bundle(), start.Add(50*24*time.Hour)))
}

// What is wrong with the Secret is put right, and no call fails meanwhile.
func TestTheSecretIsPutRight(t *testing.T) {
	for name, harm := range map[string]func(*cluster){
		"deleted":   (*cluster).deleteSecret,
		"emptied":   func(c *cluster) { c.change(func(d map[string][]byte) { clear(d) }) },
		"no key":    func(c *cluster) { c.change(func(d map[string][]byte) { delete(d, dataKeys) }) },
		"no PEM":    func(c *cluster) { c.change(func(d map[string][]byte) { d[dataCertificates] = []byte("x") }) },
		"wrong key": func(c *cluster) { c.change(func(d map[string][]byte) { d[dataKeys] = foreignKey(c.t) }) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			k := c.keeper()
			look(t, k, start)
			now := start.Add(time.Hour)
			look(t, k, now)
			first, before := k.serving, c.bundle()
			harm(c)
			look(t, k, now)
			require.NotEqual(t, before, c.bundle())
			require.Same(t, first, k.serving, "API servers do not know the new authority yet")
			require.NoError(t, call(k, c.bundle(), now))
			require.NoError(t, call(c.started(now), c.bundle(), now), "a replica that starts now has the new one alone")

			now = now.Add(settle)
			look(t, k, now)
			require.NotSame(t, first, k.serving)
			require.NoError(t, call(k, c.bundle(), now))
			require.Len(t, decode(c.secret().Data, now), 2, "others may serve with the old one still")
			now = now.Add(overlap)
			look(t, k, now)
			require.Len(t, decode(c.secret().Data, now), 1)
			require.NoError(t, call(k, c.bundle(), now))
		})
	}
}

func foreignKey(t *testing.T) []byte {
	a, err := newAuthority(start)
	require.NoError(t, err)
	data, err := encode([]authority{a})
	require.NoError(t, err)
	return data[dataKeys]
}

func (c *cluster) started(now time.Time) *Keeper {
	k := c.keeper()
	look(c.t, k, now)
	return k
}

func TestACaBundleThatSomebodyChangedIsPutRight(t *testing.T) {
	c := newCluster(t)
	k := c.started(start)
	config, err := c.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(t.Context(), configName, metav1.GetOptions{})
	require.NoError(t, err)
	want := config.Webhooks[0].ClientConfig.CABundle
	config.Webhooks[0].ClientConfig.CABundle = nil
	_, err = c.AdmissionregistrationV1().MutatingWebhookConfigurations().Update(t.Context(), config, metav1.UpdateOptions{})
	require.NoError(t, err)
	look(t, k, start.Add(time.Minute))
	require.Equal(t, want, c.bundle())
}

func TestWithoutAConfigurationThereIsACertificate(t *testing.T) {
	c := newCluster(t)
	require.NoError(t, c.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(t.Context(), configName, metav1.DeleteOptions{}))
	require.NoError(t, c.started(start).Ready(nil))
}

func TestAConflictIsLookedAtAgain(t *testing.T) {
	c := newCluster(t)
	refused := false
	c.PrependReactor("update", "mutatingwebhookconfigurations", func(clienttesting.Action) (bool, runtime.Object, error) {
		if refused {
			return false, nil, nil
		}
		refused = true
		return true, nil, apierrors.NewConflict(admissionv1.Resource("mutatingwebhookconfigurations"), configName, errors.New("stale"))
	})
	k := c.keeper()
	require.Zero(t, look(t, k, start))
	look(t, k, start)
	require.NoError(t, call(k, c.bundle(), start))
}

// 500 days with three replicas that start anew now and then and whose clocks differ, a Secret that is deleted or damaged
// now and then, and API servers that see a caBundle ten seconds late: no call ever fails.
func TestNoCallFailsWhateverRotates(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			c := newCluster(t)
			skews := []time.Duration{0, 20 * time.Minute, -20 * time.Minute}
			var replicas []*Keeper
			for _, skew := range skews {
				replicas = append(replicas, c.started(start.Add(skew)))
			}
			const lag = 10 * time.Second
			now := start
			rotations := 0
			for now.Before(start.Add(500 * 24 * time.Hour)) {
				step := time.Duration(random.Int64N(int64(10*24*time.Hour)) + 1)
				if random.IntN(3) > 0 {
					step = lag + time.Duration(random.Int64N(int64(40*time.Second)))
				}
				now = now.Add(step)
				c.ClearActions()
				late := c.bundle() // what was set in the step before has been seen by now
				switch random.IntN(30) {
				case 0:
					c.deleteSecret()
				case 1:
					c.change(func(d map[string][]byte) { delete(d, dataKeys) })
				}
				for i := range replicas {
					before := c.version
					look(t, replicas[i], now.Add(skews[i]))
					if c.version != before {
						rotations++
					}
					require.NoError(t, call(replicas[i], late, now), "replica %d at %s", i, now)
					require.NoError(t, call(replicas[i], c.bundle(), now), "replica %d at %s", i, now)
				}
			}
			require.Greater(t, rotations, 10)
		})
	}
}

// Run answers to changes, and ends with its context.
func TestRunPutsADeletedSecretRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		k := c.keeper()
		ended := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { ended <- k.Run(ctx) }()
		<-time.After(2 * time.Second)
		require.NoError(t, k.Ready(nil))
		c.deleteSecret()
		<-time.After(2 * time.Second)
		require.NotEmpty(t, c.secret().Data)
		cancel()
		require.NoError(t, <-ended)
	})
}
