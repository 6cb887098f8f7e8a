package s3_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/s3"
)

// clearEnvironment hides what the machine of the test has of credentials and regions.
func clearEnvironment(t *testing.T) {
	t.Helper()
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	t.Setenv("HOME", t.TempDir())
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1") // nobody there
}

// issuer is STS, the EKS pod identity agent and the EC2 metadata service in one. It issues keys "id-N", "secret-N",
// "token-N" and counts N up. The first lifetime is that of the first keys.
type issuer struct {
	first  time.Duration
	issued atomic.Int32
}

const webIdentity, podToken, roleARN = "web-identity-token", "pod-identity-token", "arn:aws:iam::1:role/lifeboat"

// ServeHTTP implements http.Handler.
func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }
	switch {
	case r.Method == http.MethodPost: // STS
		_ = r.ParseForm()
		if r.Form.Get("Action") != "AssumeRoleWithWebIdentity" || r.Form.Get("WebIdentityToken") != webIdentity || r.Form.Get("RoleArn") != roleARN {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		n, expires := i.issue()
		say(`<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>
			<Credentials><AccessKeyId>id-%[1]d</AccessKeyId><SecretAccessKey>secret-%[1]d</SecretAccessKey>
			<SessionToken>token-%[1]d</SessionToken><Expiration>%[2]s</Expiration></Credentials>
			</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, n, expires)
	case r.URL.Path == "/v1/credentials" && r.Header.Get("Authorization") != podToken:
		w.WriteHeader(http.StatusForbidden)
	case r.URL.Path == "/latest/api/token":
		say("imds-token")
	case r.URL.Path == "/latest/meta-data/iam/security-credentials/":
		say("node-role")
	case r.URL.Path == "/v1/credentials", r.URL.Path == "/latest/meta-data/iam/security-credentials/node-role":
		n, expires := i.issue()
		say(`{"Code":"Success","AccessKeyId":"id-%[1]d","SecretAccessKey":"secret-%[1]d","Token":"token-%[1]d","Expiration":"%[2]s"}`, n, expires)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (i *issuer) issue() (n int32, expires string) {
	n = i.issued.Add(1)
	lifetime := time.Hour
	if n == 1 {
		lifetime = i.first
	}
	return n, time.Now().Add(lifetime).UTC().Format(time.RFC3339)
}

func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// roles are the ways to keys that are issued for a while.
var roles = []struct {
	name  string
	setup func(t *testing.T, issuer string)
}{
	{"IRSA", func(t *testing.T, issuer string) {
		t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", writeFile(t, webIdentity))
		t.Setenv("AWS_ROLE_ARN", roleARN)
		t.Setenv("AWS_ROLE_SESSION_NAME", "test")
		t.Setenv("AWS_ENDPOINT_URL_STS", issuer)
	}},
	{"EKS pod identity", func(t *testing.T, issuer string) {
		t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", writeFile(t, podToken))
		t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", issuer+"/v1/credentials")
	}},
	{"EC2 role", func(t *testing.T, issuer string) { t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", issuer) }},
}

// recorder is an S3 server that takes every put and keeps its headers.
func recorder(t *testing.T) (options s3.Options, requests chan *http.Request) {
	t.Helper()
	requests = make(chan *http.Request, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { requests <- r }))
	t.Cleanup(server.Close)
	return s3.Options{Bucket: "bucket", Endpoint: server.Listener.Addr().String(), Insecure: true, Region: "here-1"}, requests
}

func TestRoles(t *testing.T) {
	cases := []struct {
		name  string
		first time.Duration
		want  []int // whose keys sign the first, second and third request
	}{
		{"good keys are kept", time.Hour, []int{1, 1, 1}},
		{"expired ones are renewed", -time.Second, []int{1, 2, 2}},
	}
	for _, role := range roles {
		for _, c := range cases {
			t.Run(role.name+"/"+c.name, func(t *testing.T) {
				clearEnvironment(t)
				issuing := httptest.NewServer(&issuer{first: c.first})
				defer issuing.Close()
				role.setup(t, issuing.URL)
				options, requests := recorder(t)
				bucket := open(t, options)
				for _, n := range c.want {
					_, err := bucket.Put(t.Context(), "key", []byte("x"), store.Condition{})
					require.NoError(t, err)
					requireSigned(t, <-requests, fmt.Sprintf("id-%d", n), fmt.Sprintf("secret-%d", n), fmt.Sprintf("token-%d", n))
				}
			})
		}
	}
}

// A server may take keys for expired that look good here: its clock is another. Where their source has others by now, it
// is worth another try.
func TestKeysThatTheServerTakesForExpired(t *testing.T) {
	clearEnvironment(t)
	keys := &issuer{first: time.Hour}
	issuing := httptest.NewServer(keys)
	defer issuing.Close()
	roles[0].setup(t, issuing.URL)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Amz-Security-Token") == "token-1" {
			answer{400, "ExpiredToken", nil}.ServeHTTP(w, r)
		}
	}))
	defer server.Close()
	bucket := open(t, s3.Options{Bucket: "bucket", Endpoint: server.Listener.Addr().String(), Insecure: true})
	_, err := bucket.Put(t.Context(), "key", []byte("x"), store.Condition{})
	temporary := (*store.TemporaryError)(nil)
	require.ErrorAs(t, err, &temporary)
	_, err = bucket.Put(t.Context(), "key", []byte("x"), store.Condition{})
	require.NoError(t, err)
	require.Equal(t, int32(2), keys.issued.Load())
}

func TestStaticKeys(t *testing.T) {
	file := "[default]\naws_access_key_id = default-id\naws_secret_access_key = default-secret\n" +
		"[other]\naws_access_key_id = other-id\naws_secret_access_key = other-secret\naws_session_token = other-token\n"
	cases := []struct {
		name              string
		environment       map[string]string
		id, secret, token string
	}{
		{"environment", map[string]string{"AWS_ACCESS_KEY_ID": "env-id", "AWS_SECRET_ACCESS_KEY": "env-secret"}, "env-id", "env-secret", ""},
		{"environment with a session", map[string]string{"AWS_ACCESS_KEY_ID": "env-id", "AWS_SECRET_ACCESS_KEY": "env-secret",
			"AWS_SESSION_TOKEN": "env-token"}, "env-id", "env-secret", "env-token"},
		{"file", nil, "default-id", "default-secret", ""},
		{"file, profile", map[string]string{"AWS_PROFILE": "other"}, "other-id", "other-secret", "other-token"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			clearEnvironment(t)
			t.Setenv("AWS_SHARED_CREDENTIALS_FILE", writeFile(t, file))
			for name, value := range c.environment {
				t.Setenv(name, value)
			}
			options, requests := recorder(t)
			_, err := open(t, options).Put(t.Context(), "key", []byte("x"), store.Condition{})
			require.NoError(t, err)
			requireSigned(t, <-requests, c.id, c.secret, c.token)
		})
	}
}

// A mounted Secret changes under the agent.
func TestRotatedFile(t *testing.T) {
	clearEnvironment(t)
	path := writeFile(t, "")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", path)
	options, requests := recorder(t)
	bucket := open(t, options)
	for _, id := range []string{"before", "after"} {
		file := fmt.Appendf(nil, "[default]\naws_access_key_id = %s\naws_secret_access_key = secret\n", id)
		require.NoError(t, os.WriteFile(path, file, 0o600))
		_, err := bucket.Put(t.Context(), "key", []byte("x"), store.Condition{})
		require.NoError(t, err)
		requireSigned(t, <-requests, id, "secret", "")
	}
}

func TestWithoutCredentialsNothingIsSent(t *testing.T) {
	cases := []struct {
		name        string
		environment map[string]string
		temporary   bool
		want        string
	}{
		{"none at all", nil, false, "give the pod or machine a role"},
		{"half of the keys", map[string]string{"AWS_ACCESS_KEY_ID": "id"}, false, "only one is set"},
		{"a profile that is not there", map[string]string{"AWS_PROFILE": "absent"}, false, "profile absent"},
		{"a role without its token", map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere/token"}, true, "/nowhere/token"},
		{"a role that is not issued", map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/v1"}, true, "role: "},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			clearEnvironment(t)
			t.Setenv("AWS_SHARED_CREDENTIALS_FILE", writeFile(t, "[default]\n"))
			for name, value := range c.environment {
				t.Setenv(name, value)
			}
			options, requests := recorder(t)
			_, err := open(t, options).Put(t.Context(), "key", []byte("x"), store.Condition{})
			require.ErrorContains(t, err, "there are no credentials: set AWS_ACCESS_KEY_ID")
			require.ErrorContains(t, err, c.want)
			temporary := (*store.TemporaryError)(nil)
			if c.temporary {
				require.ErrorAs(t, err, &temporary)
			} else {
				require.NotErrorAs(t, err, &temporary)
			}
			require.Empty(t, requests)
		})
	}
}

// requireSigned computes the signature of a request anew, by the rules of AWS Signature Version 4.
func requireSigned(t *testing.T, r *http.Request, id, secret, token string) {
	t.Helper()
	require.Equal(t, token, r.Header.Get("X-Amz-Security-Token"))
	fields := strings.FieldsFunc(strings.TrimPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 "), func(c rune) bool { return c == ',' || c == ' ' })
	require.Len(t, fields, 3)
	credential, _ := strings.CutPrefix(fields[0], "Credential=")
	names, _ := strings.CutPrefix(fields[1], "SignedHeaders=")
	signature, _ := strings.CutPrefix(fields[2], "Signature=")
	scope, ok := strings.CutPrefix(credential, id+"/")
	require.True(t, ok, "signed by %s, want %s", credential, id)

	var headers strings.Builder
	for name := range strings.SplitSeq(names, ";") {
		value := r.Header.Get(name)
		if name == "host" {
			value = r.Host
		}
		fmt.Fprintf(&headers, "%s:%s\n", name, value)
	}
	canonical := strings.Join([]string{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, headers.String(), names, r.Header.Get("X-Amz-Content-Sha256")}, "\n")
	hash := sha256.Sum256([]byte(canonical))
	key := []byte("AWS4" + secret)
	for part := range strings.SplitSeq(scope, "/") { // date, region, service, "aws4_request"
		key = mac(key, part)
	}
	text := "AWS4-HMAC-SHA256\n" + r.Header.Get("X-Amz-Date") + "\n" + scope + "\n" + hex.EncodeToString(hash[:])
	require.Equal(t, hex.EncodeToString(mac(key, text)), signature)
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
