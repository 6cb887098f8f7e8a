// Package pki makes the keys, certificates and kubeconfig files of a bed.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const validity = 10 * 365 * 24 * time.Hour

// CA signs certificates and writes them, PEM encoded, to a folder.
type CA struct {
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
}

// Identity is who a certificate is for.
type Identity struct {
	Name          string
	Organizations []string
	DNS           []string
	Addresses     []string
}

// New makes a CA and writes ca.crt and ca.key to dir, which must exist.
func New(dir string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make CA key: %w", err)
	}
	t := template(Identity{Name: "lifeboat-bed"})
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	ca := &CA{dir: dir, key: key, cert: t}
	if ca.pem, err = ca.sign(t, key.Public()); err != nil {
		return nil, err
	}
	block, _ := pem.Decode(ca.pem)
	if ca.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, fmt.Errorf("make CA certificate: %w", err)
	}
	return ca, ca.write("ca", key, ca.pem)
}

// Issue writes <file>.crt and <file>.key, good for servers and clients.
func (ca *CA) Issue(file string, id Identity) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key %s: %w", file, err)
	}
	cert, err := ca.sign(template(id), key.Public())
	if err != nil {
		return err
	}
	return ca.write(file, key, cert)
}

// SigningKey writes <file>.key and <file>.pub, a key pair without a certificate.
func (ca *CA) SigningKey(file string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key %s: %w", file, err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("encode key %s: %w", file, err)
	}
	pub := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	if err := os.WriteFile(filepath.Join(ca.dir, file+".pub"), pub, 0o644); err != nil {
		return err
	}
	return ca.write(file, key, nil)
}

// Kubeconfig writes a self-contained kubeconfig for an issued certificate.
func (ca *CA) Kubeconfig(path, file, server string) error {
	cert, err := os.ReadFile(filepath.Join(ca.dir, file+".crt"))
	if err != nil {
		return err
	}
	key, err := os.ReadFile(filepath.Join(ca.dir, file+".key"))
	if err != nil {
		return err
	}
	b64 := base64.StdEncoding.EncodeToString
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: lifeboat-bed, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: %s, user: {client-certificate-data: %s, client-key-data: %s}}]
contexts: [{name: lifeboat-bed, context: {cluster: lifeboat-bed, user: %s}}]
current-context: lifeboat-bed
`, server, b64(ca.pem), file, b64(cert), b64(key), file)
	return os.WriteFile(path, []byte(text), 0o600)
}

func template(id Identity) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: id.Name, Organization: id.Organizations},
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(validity),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    id.DNS,
	}
	for _, a := range id.Addresses {
		t.IPAddresses = append(t.IPAddresses, net.ParseIP(a))
	}
	return t
}

func (ca *CA) sign(t *x509.Certificate, pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, ca.cert, pub, ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", t.Subject.CommonName, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func (ca *CA) write(file string, key *ecdsa.PrivateKey, cert []byte) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode key %s: %w", file, err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	if err := os.WriteFile(filepath.Join(ca.dir, file+".key"), keyPEM, 0o600); err != nil {
		return err
	}
	if cert == nil {
		return nil
	}
	return os.WriteFile(filepath.Join(ca.dir, file+".crt"), cert, 0o644)
}
