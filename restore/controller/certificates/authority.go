package certificates

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// How long things last. Clocks may differ by less than overlap.
const (
	// authorityLife is that of a certificate authority; in its last third the next one is made.
	authorityLife = 365 * 24 * time.Hour
	// servingLife is that of a serving certificate, which is made anew in its last third.
	servingLife = 30 * 24 * time.Hour
	// settle is how long an authority is trusted before anything is signed with it: every API server knows it by then.
	settle = 15 * time.Second
	// overlap is how long the authorities before it are still trusted after that.
	overlap = time.Hour
	// backdate lets a certificate be valid for clocks that lag.
	backdate = 24 * time.Hour
)

// Keys of the Secret's data: authorities newest first, and the private keys that there are of them.
const (
	dataCertificates = "ca.crt"
	dataKeys         = "ca.key"
)

const (
	commonName     = "lifeboat-webhook"
	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY"
)

// authority is a certificate authority of ours. One without a key is trusted, but signs no more.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// made is when the authority was made, by the clock of who made it.
func (a authority) made() time.Time { return a.certificate.NotBefore.Add(backdate) }

func (a authority) fingerprint() string { return string(a.certificate.Signature) }

func (a authority) same(b authority) bool { return a.certificate.Equal(b.certificate) }

// newAuthority makes an authority.
func newAuthority(now time.Time) (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, fmt.Errorf("make key of certificate authority: %w", err)
	}
	template, err := newTemplate(now, now.Add(authorityLife))
	if err != nil {
		return authority{}, err
	}
	template.Subject.CommonName = commonName
	template.IsCA = true
	template.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return authority{}, fmt.Errorf("make certificate authority: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return authority{}, fmt.Errorf("read certificate authority: %w", err)
	}
	return authority{certificate, key}, nil
}

func newTemplate(now, end time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"lifeboat.dev"}},
		NotBefore: now.Add(-backdate), NotAfter: end, BasicConstraintsValid: true,
	}, nil
}

// issue makes a serving certificate for the names, with a key of its own that never leaves this process.
func (a authority) issue(now time.Time, names []string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make serving key: %w", err)
	}
	end := now.Add(servingLife)
	if a.certificate.NotAfter.Before(end) {
		end = a.certificate.NotAfter
	}
	template, err := newTemplate(now, end)
	if err != nil {
		return nil, err
	}
	template.DNSNames = names
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("make serving certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read serving certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// decode reads what it can of a Secret's data, newest first. What is damaged, expired or no authority of ours is left out.
func decode(data map[string][]byte, now time.Time) []authority {
	var keys []*ecdsa.PrivateKey
	for block := range blocks(data[dataKeys], pemKey) {
		if key, err := x509.ParsePKCS8PrivateKey(block); err == nil {
			if key, ok := key.(*ecdsa.PrivateKey); ok {
				keys = append(keys, key)
			}
		}
	}
	var out []authority
	for block := range blocks(data[dataCertificates], pemCertificate) {
		certificate, err := x509.ParseCertificate(block)
		if err != nil || !certificate.IsCA || certificate.Subject.CommonName != commonName || !now.Before(certificate.NotAfter) {
			continue
		}
		a := authority{certificate: certificate}
		if slices.ContainsFunc(out, a.same) {
			continue
		}
		for _, key := range keys {
			if key.PublicKey.Equal(certificate.PublicKey) {
				a.key = key
			}
		}
		out = append(out, a)
	}
	slices.SortStableFunc(out, func(a, b authority) int { return b.made().Compare(a.made()) })
	return out
}

// encode is the Secret's data for the authorities.
func encode(authorities []authority) (map[string][]byte, error) {
	var certificates, keys bytes.Buffer
	for _, a := range authorities {
		certificates.Write(pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: a.certificate.Raw}))
		if a.key == nil {
			continue
		}
		der, err := x509.MarshalPKCS8PrivateKey(a.key)
		if err != nil {
			return nil, fmt.Errorf("encode key of certificate authority: %w", err)
		}
		keys.Write(pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}))
	}
	return map[string][]byte{dataCertificates: certificates.Bytes(), dataKeys: keys.Bytes()}, nil
}

// blocks yields the contents of PEM blocks of that type.
func blocks(text []byte, kind string) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			if block.Type == kind && !yield(block.Bytes) {
				return
			}
		}
	}
}

// plan says which authorities there should be, newest first. secret are those of the Secret, bundle those that API servers
// trust now: where the Secret has been lost, replicas still serve with certificates of theirs.
func plan(now time.Time, secret, bundle []authority) ([]authority, error) {
	next := slices.Clone(secret)
	i := slices.IndexFunc(next, func(a authority) bool { return a.key != nil })
	if i < 0 {
		for _, a := range bundle {
			if !slices.ContainsFunc(next, a.same) {
				next = append(next, authority{certificate: a.certificate})
			}
		}
	}
	if i < 0 || next[i].certificate.NotAfter.Sub(now) < authorityLife/3 {
		made, err := newAuthority(now)
		if err != nil {
			return nil, err
		}
		return append([]authority{made}, next...), nil
	}
	if now.Sub(next[i].made()) >= settle+overlap {
		next = next[i : i+1]
	}
	return next, nil
}

// due is the time from now until plan or the signer may change.
func due(now time.Time, authorities []authority) time.Duration {
	if len(authorities) == 0 {
		return 0
	}
	newest := authorities[0]
	wait := newest.certificate.NotAfter.Sub(now) - authorityLife/3
	for _, step := range []time.Duration{settle, settle + overlap} {
		if left := newest.made().Add(step).Sub(now); left > 0 {
			wait = min(wait, left)
		}
	}
	return wait
}
