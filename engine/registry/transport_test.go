package registry

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/registrytest"
)

func TestKindsOfAddresses(t *testing.T) {
	for text, want := range map[string]addressKind{
		"8.8.8.8": public, "198.51.100.7": public, "2600::1": public, "127.0.0.1": loopback, "127.9.9.9": loopback,
		"::1": loopback, "::ffff:127.0.0.1": loopback, "64:ff9b::7f00:1": loopback, "2002:7f00:1::": loopback,
		"169.254.169.254": linkLocal, "fe80::1%lo": linkLocal, "ff02::1": linkLocal, "10.0.0.1": private,
		"172.31.0.1": private, "192.168.1.1": private, "fd00:ec2::254": private, "100.64.0.1": private,
		"0.0.0.0": unspecified, "0.1.2.3": unspecified, "::": unspecified, "224.0.0.1": linkLocal, "239.1.1.1": group,
		"255.255.255.255": group, "240.0.0.1": group,
	} {
		if got := kindOf(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
	}
}

// stand is a registry at an address that keeps its blobs somewhere else.
func stand(t *testing.T, h *host, address string, img *shelf, to string) *registrytest.Server {
	t.Helper()
	s := registrytest.Serve(t, registrytest.Options{Address: address + ":0", TLS: true, Names: []string{address},
		User: "alice", Password: "secret", Bearer: true})
	h.trusts(s)
	h.push(s.Host+"/a/b:1", img, Credential{Host: s.Host, Username: "alice", Password: "secret"})
	d := img.layer(t)
	s.Fail(registrytest.Fault{Path: d.Digest.String(), Method: http.MethodGet, Redirect: to + "/" + d.Digest.String()})
	return s
}

// storage has blobs for whoever asks, and keeps what they bring.
func storage(t *testing.T, h *host, address string, img *shelf, certified bool) (*httptest.Server, *[]http.Header) {
	t.Helper()
	var headers []http.Header
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headers = append(headers, r.Header.Clone())
		for h, data := range img.blobs {
			if strings.HasSuffix(r.URL.Path, h.String()) {
				w.Write(data)
			}
		}
	}))
	l, err := net.Listen("tcp", address+":0")
	if err != nil {
		t.Fatal(err)
	}
	s.Listener.Close()
	s.Listener = l
	s.Config.ErrorLog = discard()
	ca := registrytest.NewCA(t)
	s.TLS = serverTLS(ca.Issue(t, address).TLS(t))
	s.StartTLS()
	s.URL = "https://" + l.Addr().String()
	t.Cleanup(s.Close)
	if certified {
		registrytest.Write(t, ca.PEM, h.dir, l.Addr().String(), "ca.crt")
	}
	return s, &headers
}

// A registry may send us on to storage elsewhere, which gets neither the token nor other settings of the registry's.
func TestStorageElsewhereGetsNothing(t *testing.T) {
	h := newHost(t)
	img := newShelf(t, 10_000, 1)
	place, headers := storage(t, h, publicAddress, img, true)
	s := stand(t, h, publicAddress, img, place.URL)
	h.hosts(s.Host, fmt.Sprintf("server = %q\n[header]\nx-secret = \"s\"\n", s.URL))
	r := h.repository(s.Host+"/a/b:1", Credential{Host: s.Host, Username: "alice", Password: "secret"})
	pulls(t, r, "1", img)
	if len(*headers) == 0 {
		t.Fatal("the storage was not asked")
	}
	for _, got := range *headers {
		if got.Get("Authorization") != "" || got.Get("X-Secret") != "" || got.Get("Referer") != "" {
			t.Errorf("it got %v", got)
		}
	}
	if last := s.Requests()[len(s.Requests())-1]; last.Header.Get("X-Secret") != "s" {
		t.Errorf("the registry got %v", last.Header)
	}
}

// The CA of one host is no CA of another, nor is skip_verify.
func TestTrustIsOfOneHost(t *testing.T) {
	for _, settings := range []string{"", "skip_verify = true\n"} {
		h := newHost(t)
		img := newShelf(t, 1000, 1)
		place, headers := storage(t, h, publicAddress, img, false)
		s := stand(t, h, publicAddress, img, place.URL)
		h.hosts(s.Host, fmt.Sprintf("server = %q\n", s.URL)+settings)
		r := h.repository(s.Host+"/a/b:1", Credential{Host: s.Host, Username: "alice", Password: "secret"})
		_, err := read(t, r, img.layer(t), 0)
		if e := failure(t, err); e.Kind != KindCertificate || len(*headers) != 0 {
			t.Errorf("%q: %v", settings, err)
		}
	}
}

// Where a registry may send us on to depends on its own address.
func TestWhereWeAreSentOnTo(t *testing.T) {
	for _, c := range []struct {
		from, to string
		allowed  bool
	}{
		{publicAddress, publicAddress, true}, {publicAddress, "127.0.0.1", false}, {publicAddress, privateAddress,
			false},
		{publicAddress, localAddress, false}, {privateAddress, privateAddress, true}, {privateAddress, publicAddress,
			true},
		{privateAddress, "127.0.0.1", false}, {"127.0.0.1", "127.0.0.1", true}, {"127.0.0.1", localAddress, false},
	} {
		h := newHost(t)
		img := newShelf(t, 1000, 1)
		place, headers := storage(t, h, c.to, img, true)
		s := stand(t, h, c.from, img, place.URL)
		r := h.repository(s.Host+"/a/b:1", Credential{Host: s.Host, Username: "alice", Password: "secret"})
		_, err := read(t, r, img.layer(t), 0)
		if c.allowed && err != nil {
			t.Errorf("%s to %s: %v", c.from, c.to, err)
		}
		if !c.allowed && (failure(t, err).Kind != KindRedirect || len(*headers) != 0) {
			t.Errorf("%s to %s: %v", c.from, c.to, err)
		}
	}
}

// A name is not believed: what counts is the address that it has when the connection is made.
func TestANameDoesNotHideAnAddress(t *testing.T) {
	h := newHost(t)
	img := newShelf(t, 1000, 1)
	place, headers := storage(t, h, "127.0.0.1", img, true)
	_, port, _ := net.SplitHostPort(place.Listener.Addr().String())
	s := stand(t, h, publicAddress, img, "https://localhost:"+port)
	_, err := read(t, h.repository(s.Host+"/a/b:1", Credential{Host: s.Host, Username: "alice", Password: "secret"}),
		img.layer(t), 0)
	if e := failure(t, err); e.Kind != KindRedirect || len(*headers) != 0 || !strings.Contains(err.Error(),
		"loopback") {
		t.Errorf("%v", err)
	}
}

func TestNobodyIsSentFromHTTPSToPlain(t *testing.T) {
	h := newHost(t)
	img := newShelf(t, 1000, 1)
	plain := registrytest.Serve(t, registrytest.Options{Address: publicAddress + ":0"})
	s := stand(t, h, publicAddress, img, plain.URL)
	_, err := read(t, h.repository(s.Host+"/a/b:1", Credential{Host: s.Host, Username: "alice", Password: "secret"}),
		img.layer(t), 0)
	if e := failure(t, err); e.Kind != KindRedirect || len(plain.Requests()) != 0 || !strings.Contains(err.Error(),
		"plain http") {
		t.Errorf("%v", err)
	}
}

// A realm is a place that we are sent to, too.
func TestWhereTokensAreAskedFor(t *testing.T) {
	h := newHost(t)
	inside := registrytest.Serve(t, registrytest.Options{Address: privateAddress + ":0", TLS: true,
		Names: []string{privateAddress}})
	h.trusts(inside)
	_, port, _ := net.SplitHostPort(inside.Host)
	for _, realm := range []string{"file:///etc/passwd", "http://" + inside.Host, inside.URL,
		"https://localhost:" + port, "", "::"} {
		s := registrytest.Serve(t, registrytest.Options{Address: publicAddress + ":0", TLS: true, Bearer: true,
			Names: []string{publicAddress}, Realm: realm + "/token"})
		h.trusts(s)
		err := h.Login(t.Context(), Credential{Host: s.Host, Username: "alice", Password: "secret"})
		if e := failure(t, err); e.Kind == KindBroken || e.Kind == KindUnauthorized || strings.Contains(err.Error(),
			"secret") {
			t.Errorf("%q: %s: %v", realm, e.Kind, err)
		}
		if n := len(inside.Requests()); n != 0 {
			t.Fatalf("%q: it was asked", realm)
		}
	}
}

// Plain HTTP is spoken with loopback, and where a file says so.
func TestPlainHTTP(t *testing.T) {
	img := newShelf(t, 1000, 1)
	for _, address := range []string{privateAddress, publicAddress} {
		s := registrytest.Serve(t, registrytest.Options{Address: address + ":0"})
		ref := s.Host + "/a/b:1"
		h := newHost(t)
		_, _, err := h.repository(ref).Manifest(t.Context(), "1")
		if e := failure(t, err); e.Kind != KindPlainHTTP || !strings.Contains(e.Remedy, "hosts.toml") ||
			len(s.Requests()) != 0 {
			t.Errorf("%s: %v", address, err)
		}
		h.hosts(s.Host, fmt.Sprintf("server = %q\n", s.URL))
		h.push(ref, img)
		pulls(t, h.repository(ref), "1", img)
		h = newHost(t)
		h.registries(fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", s.Host))
		pulls(t, h.repository(ref), "1", img)
		h.registries("") // what changes counts at once
		if _, _, err := h.repository(ref).Manifest(t.Context(), "1"); failure(t, err).Kind != KindPlainHTTP {
			t.Errorf("%s: %v", address, err)
		}
	}
	six := registrytest.Serve(t, registrytest.Options{Address: "[::1]:0"})
	newHost(t).push(six.Host+"/a/b:1", img)
	loop := registrytest.Serve(t, registrytest.Options{})
	_, port, _ := net.SplitHostPort(loop.Host)
	h := newHost(t)
	h.push(loop.Host+"/a/b:1", img)
	pulls(t, h.repository("localhost:"+port+"/a/b:1"), "1", img)
}

func TestTLS(t *testing.T) {
	img := newShelf(t, 1000, 1)
	clients := registrytest.NewCA(t)
	s := registrytest.Serve(t, registrytest.Options{TLS: true, ClientCA: clients})
	ref := s.Host + "/a/b:1"
	h := newHost(t)
	kind := func(want Kind) {
		t.Helper()
		_, _, err := h.repository(ref).Manifest(t.Context(), "1")
		if e := failure(t, err); e.Kind != want {
			t.Errorf("%v", err)
		}
	}
	kind(KindCertificate) // the server's
	h.trusts(s)
	kind(KindCertificate) // ours
	pair := clients.Issue(t, "client")
	registrytest.Write(t, pair.Cert, h.dir, s.Host, "client.cert")
	_, err := h.Repository(ref, nil)
	if err == nil || !strings.Contains(err.Error(), "client.cert has no key") {
		t.Errorf("half a pair: %v", err)
	}
	registrytest.Write(t, pair.Key, h.dir, s.Host, "client.key")
	h.push(ref, img)
	registrytest.Write(t, clients.Issue(t, "x").Key, h.dir, s.Host, "client.key")
	_, _, err = h.repository(ref).Manifest(t.Context(), "1")
	if err == nil || !strings.Contains(err.Error(), "does not go with its key") {
		t.Errorf("a key of another: %v", err)
	}
	other := newHost(t)
	registrytest.Write(t, append(pair.Cert, pair.Key...), other.dir, "client.pem")
	ca := registrytest.Write(t, s.CA.PEM, other.dir, "the-ca")
	other.hosts(s.Host, fmt.Sprintf("server = %q\nca = %q\nclient = \"../client.pem\"\n", s.URL, ca))
	pulls(t, other.repository(ref), "1", img)
	other.hosts(s.Host, fmt.Sprintf("server = %q\nskip_verify = true\n", s.URL)+
		"client = [[\"../client.pem\", \"../client.pem\"]]\n")
	pulls(t, other.repository(ref), "1", img)
	registrytest.Write(t, []byte("no certificate"), other.dir, s.Host, "ca.crt")
	if _, _, err := other.repository(ref).Manifest(t.Context(), "1"); err == nil || !strings.Contains(err.Error(),
		"ca.crt holds no") {
		t.Errorf("no certificate: %v", err)
	}
}

// proxy forwards plain requests and makes tunnels, and keeps whom it was asked for.
func proxy(t *testing.T) (address string, asked func() []string) {
	t.Helper()
	hosts := make(chan string, 1000)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hosts <- r.Host
		if r.Method != http.MethodConnect {
			r.RequestURI = ""
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			defer resp.Body.Close()
			for key, values := range resp.Header {
				w.Header()[key] = values
			}
			w.WriteHeader(resp.StatusCode)
			io.Copy(w, resp.Body)
			return
		}
		far, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusOK)
		near, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			far.Close()
			return
		}
		done := make(chan struct{})
		go func() { io.Copy(far, near); far.Close(); close(done) }()
		io.Copy(near, far)
		near.Close()
		<-done
	}))
	t.Cleanup(func() {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		s.Close()
	})
	return s.URL, func() (all []string) {
		for {
			select {
			case h := <-hosts:
				all = append(all, h)
			default:
				return all
			}
		}
	}
}

func TestProxies(t *testing.T) {
	address, asked := proxy(t)
	t.Setenv("HTTPS_PROXY", address)
	t.Setenv("HTTP_PROXY", address)
	h := newHost(t)
	img := newShelf(t, 1000, 1)
	place, headers := storage(t, h, privateAddress, img, true)
	s := stand(t, h, publicAddress, img, place.URL)
	cred := Credential{Host: s.Host, Username: "alice", Password: "secret"}
	if all := asked(); len(all) == 0 || all[0] != s.Host {
		t.Fatalf("the proxy was asked for %v", all)
	}
	_, err := read(t, h.repository(s.Host+"/a/b:1", cred), img.layer(t), 0)
	if e := failure(t, err); e.Kind != KindRedirect || len(*headers) != 0 {
		t.Errorf("an address inside, through a proxy: %v", err)
	}
	s.Heal()
	pulls(t, h.repository(s.Host+"/a/b:1", cred), "1", img)
	asked()
	t.Setenv("NO_PROXY", publicAddress)
	direct := newHost(t)
	direct.trusts(s)
	pulls(t, direct.repository(s.Host+"/a/b:1", cred), "1", img)
	if all := asked(); len(all) != 0 {
		t.Errorf("the proxy was asked for %v", all)
	}
}

// A token that is taken no longer is asked for anew, in the middle of a pull and of a push.
func TestATokenThatHasRunOut(t *testing.T) {
	s := registrytest.Serve(t, registrytest.Options{Bearer: true, User: "alice", Password: "secret"})
	h := newHost(t)
	cred := Credential{Host: s.Host, Username: "alice", Password: "secret"}
	img := newShelf(t, 10_000, 1)
	d := img.layer(t)
	over := registrytest.Fault{Times: 1, Status: 401, Header: http.Header{"Www-Authenticate": {
		`Bearer realm="` + s.URL + `/token",service="test",error="invalid_token"`}}}
	for _, at := range []struct{ path, method string }{{"/uploads/", http.MethodPut}, {"/manifests/", http.MethodPut},
		{"/manifests/", http.MethodGet}, {d.Digest.String(), http.MethodGet}} {
		over.Path, over.Method = at.path, at.method
		s.Fail(over)
	}
	h.push(s.Host+"/a/b:1", img, cred)
	pulls(t, h.repository(s.Host+"/a/b:1", cred), "1", img)
	if n := s.Asked(http.MethodGet, "/token"); n != 6 {
		t.Errorf("%d tokens were asked for", n)
	}
}

// The caller's end of the context ends what is under way.
func TestTheCallerCanEndIt(t *testing.T) {
	s := registrytest.Serve(t, registrytest.Options{})
	h := newHost(t)
	img := newShelf(t, 10_000, 1)
	h.push(s.Host+"/a/b:1", img)
	s.Fail(registrytest.Fault{Path: "/manifests/", NoAnswer: true})
	s.Fail(registrytest.Fault{Path: "/blobs/", Stall: true, At: 10})
	r := h.repository(s.Host + "/a/b:1")
	ctx, cancel := contextUntil(t, func() bool { return s.Asked(http.MethodGet, "/manifests/") > 0 })
	defer cancel()
	if _, _, err := r.Manifest(ctx, "1"); !errors.Is(err, errEnough) {
		t.Errorf("manifest: %v", err)
	}
	ctx, cancel = contextUntil(t, func() bool { return s.Asked(http.MethodGet, "/blobs/") > 0 })
	defer cancel()
	b, err := r.Blob(ctx, img.layer(t), 0)
	if err == nil {
		_, err = io.ReadAll(b)
		b.Close()
	}
	if !errors.Is(err, errEnough) {
		t.Errorf("blob: %v", err)
	}
}

func TestSameHost(t *testing.T) {
	for _, c := range []struct {
		url, address, scheme string
		want                 bool
	}{
		{"https://a.b/v2/", "a.b", "https", true}, {"https://A.b:443/", "a.b", "https", true},
		{"https://a.b:5000/", "a.b", "https", false}, {"http://a.b:80/", "a.b", "http", true},
		{"https://a.b/", "a.b", "http", true}, {"https://x.a.b/", "a.b", "https", false},
		{"https://[::1]:5000/", "[::1]:5000", "https", true}, {"file:///etc", "a.b", "https", false},
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		if got := sameHost(u, c.address, c.scheme); got != c.want {
			t.Errorf("%s is %s by %s: %t", c.url, c.address, c.scheme, got)
		}
	}
}
