// Command incluster asks the API server for the nodes, as a pod does, and says what it answered. With an argument it
// ends then; otherwise it goes on until it is told to end.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const account = "/var/run/secrets/kubernetes.io/serviceaccount/"

func main() {
	status, err := ask()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("the API server answered", status)
	if len(os.Args) > 1 {
		return
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
}

func ask() (int, error) {
	ca, err := os.ReadFile(account + "ca.crt")
	if err != nil {
		return 0, err
	}
	token, err := os.ReadFile(account + "token")
	if err != nil {
		return 0, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	server := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	req, err := http.NewRequest(http.MethodGet, "https://"+server+"/api/v1/nodes", nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+string(token))
	res, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	return res.StatusCode, res.Body.Close()
}
