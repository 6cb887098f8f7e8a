package scale

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/test/bed"
	"github.com/lifeboat-dev/lifeboat/test/bench/process"
	"github.com/lifeboat-dev/lifeboat/test/bench/room"
	"github.com/lifeboat-dev/lifeboat/test/deploy"
)

const (
	// hubAddress is where the control plane's network sees the controller.
	hubAddress     = "10.99.0.1"
	webhookService = "lifeboat-webhook"
	webhookPort    = 9443
	metricsURL     = "http://127.0.0.1:9641/metrics"
	readyURL       = "http://127.0.0.1:9642/readyz"
)

// controller is lifeboat-controller, which runs in the bed's network.
type controller struct {
	command *exec.Cmd
	// ended is closed when it has ended, by itself or not.
	ended  chan struct{}
	log    string
	inside *http.Client
}

// startController starts the real program under its own account.
func (l *lab) startController(ctx context.Context) (_ *controller, err error) {
	binary := filepath.Join(l.Folder, controllerName)
	if err := bed.BuildBinary(ctx, "./cmd/"+controllerName, binary); err != nil {
		return nil, err
	}
	kubeconfig := filepath.Join(l.Folder, "kubeconfig")
	if err := l.account(ctx, kubeconfig); err != nil {
		return nil, err
	}
	c := &controller{log: filepath.Join(l.Folder, controllerName+".log")}
	c.inside = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return room.DialFrom(ctx, l.bed.HubPID(), network, address)
	}}}
	log, err := os.Create(c.log)
	if err != nil {
		return nil, fmt.Errorf("make log: %w", err)
	}
	defer log.Close()
	c.command = exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", l.bed.HubPID()), "--", binary)
	c.command.Env = []string{"KUBECONFIG=" + kubeconfig, "PATH=" + os.Getenv("PATH")}
	c.command.Stdout, c.command.Stderr = log, log
	c.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c.ended = make(chan struct{})
	started := make(chan error, 1)
	go func() {
		defer close(c.ended)
		// The kernel sends Pdeathsig when the thread ends that started the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.command.Start()
		started <- err
		if err == nil {
			_ = c.command.Wait() // why it ended is in its log
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start controller: %w", err)
	}
	return c, nil
}

// account writes a kubeconfig for the controller's service account.
func (l *lab) account(ctx context.Context, path string) error {
	token, err := l.api.CoreV1().ServiceAccounts(deploy.Namespace).CreateToken(ctx, controllerName, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To(int64(24 * 60 * 60))},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make token: %w", err)
	}
	config, err := clientcmd.LoadFromFile(l.bed.InsideKubeconfig())
	if err != nil {
		return fmt.Errorf("load kubeconfig: %w", err)
	}
	for name := range config.AuthInfos {
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	}
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}

// callable has the API server reach the webhook, and returns when it does.
func (l *lab) callable(ctx context.Context) error {
	port := int32(webhookPort)
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: webhookService},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "webhook", Port: 443}}},
	}
	if _, err := l.api.CoreV1().Services(deploy.Namespace).Create(ctx, service, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create Service: %w", err)
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: webhookService, Labels: map[string]string{discoveryv1.LabelServiceName: webhookService}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{hubAddress}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}}},
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("webhook"), Port: &port, Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	if _, err := l.api.DiscoveryV1().EndpointSlices(deploy.Namespace).Create(ctx, slice, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create EndpointSlice: %w", err)
	}
	if err := l.apply(ctx, func(kind string) bool { return kind == webhookKind }); err != nil {
		return err
	}
	return deploy.Until(ctx, "the webhook", func(ctx context.Context) (bool, string, error) {
		if _, err := l.controller.get(ctx, readyURL); err != nil {
			return false, err.Error(), nil
		}
		trial := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "trial-", Labels: setOf("", "trial", 0).Spec.Template.Labels}, Spec: podSpec(),
		}
		made, err := l.api.CoreV1().Pods(bigNamespace).Create(ctx, trial, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return false, err.Error(), nil
		}
		return made.Spec.RuntimeClassName != nil, "not called", nil
	})
}

// get asks the controller.
func (c *controller) get(ctx context.Context, url string) (_ []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", url, err)
	}
	answer, err := c.inside.Do(request)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", url, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status)
	}
	if err != nil {
		return nil, fmt.Errorf("get %s: %w: %.300s", url, err, body)
	}
	return body, nil
}

func (c *controller) pid() int { return c.command.Process.Pid }

// used is what the controller has used so far.
func (c *controller) used() (cpu time.Duration, peak int64, err error) {
	if cpu, err = process.CPU(c.pid()); err == nil {
		peak, err = process.Peak(c.pid())
	}
	return cpu, peak, err
}

// end ends the controller; nil has none.
func (c *controller) end() error {
	if c == nil {
		return nil
	}
	if err := c.command.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end controller: %w", err)
	}
	timer := time.AfterFunc(20*time.Second, func() { _ = c.command.Process.Kill() })
	defer timer.Stop()
	<-c.ended
	return nil
}

// lost is an error where the controller has ended by itself.
func (c *controller) lost() error {
	select {
	case <-c.ended:
		return errors.New("the controller has ended: see its log")
	default:
		return nil
	}
}

// keepLog copies the controller's log into the folder.
func (c *controller) keepLog(folder string) error {
	if c == nil {
		return nil
	}
	text, err := os.ReadFile(c.log)
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, controllerName+".log"), text, 0o644)
	}
	if err != nil {
		return fmt.Errorf("keep log of the controller: %w", err)
	}
	return nil
}
