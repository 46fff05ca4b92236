package main

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// Users: all may read, but one has no rights anywhere.
var users = map[string]bool{"root": true, "monitor": true, "nobody": false}

// blind is whether a session's user sees nothing.
func blind(ctx *simulator.Context) bool {
	if ctx.Session == nil {
		return false
	}
	sees, known := users[ctx.Session.UserName]
	return known && !sees
}

// front is the HTTP server before the simulator. It knows users, counts calls, ends sessions that
// are idle, and answers badly when a test wants it.
type front struct {
	service     *simulator.Service
	certificate tls.Certificate
	port        int
	server      *http.Server

	login sync.Mutex // as the simulator knows one user at a time

	mu     sync.Mutex
	calls  map[string]int
	used   map[string]float64 // when sessions were last used
	idle   float64            // seconds until a session that is not used ends; 0 is never
	faults []*fault
	healed int  // how often all faults were ended
	flying int  // calls that are being answered
	most   int  // of these at once
	plain  bool // nothing is compressed
	xsi    bool // types have the prefix that vCenter writes, and not govmomi's
}

// A fault is a bad answer to the next calls of a method.
type fault struct {
	Method string  `json:"method"` // "" is any
	About  string  `json:"about"`  // only calls with this in their text
	Times  int     `json:"times"`
	Status int     `json:"status"` // an answer with this status and body, or
	Body   string  `json:"body"`   // {view} is the view that is asked for
	Bomb   int     `json:"bomb"`   // so many MiB of blanks, compressed, or
	Cut    bool    `json:"cut"`    // half of the true answer, or
	Reset  bool    `json:"reset"`  // none, or
	Delay  float64 `json:"delay"`  // the true one, seconds later
	Expire bool    `json:"expire"` // as if the session had ended just now
}

func newFront(service *simulator.Service, certificate tls.Certificate) *front {
	service.RegisterSDK(simulator.Map)
	service.ServeMux.HandleFunc("/sdk/vimServiceVersions.xml", service.ServiceVersions)
	return &front{
		service: service, certificate: certificate, calls: map[string]int{}, used: map[string]float64{}, idle: 1800,
	}
}

func (f *front) listen(port int) error {
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	f.port = listener.Addr().(*net.TCPAddr).Port
	f.server = &http.Server{
		Handler:      f,
		ErrorLog:     nil,
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1, as vCenter
	}
	go f.server.Serve(tls.NewListener(listener, &tls.Config{
		Certificates: []tls.Certificate{f.certificate}, MinVersion: tls.VersionTLS12,
	}))
	return nil
}

func (f *front) close() { _ = f.server.Close() }

var viewName = regexp.MustCompile(`<obj type="ContainerView">[^<]*</obj>`)

var bodyStart = regexp.MustCompile(`<(?:\w+:)?Body[^>]*>\s*<(?:\w+:)?(\w+)`)

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		f.service.ServeMux.ServeHTTP(w, r)
		return
	}
	var body bytes.Buffer
	if _, err := body.ReadFrom(r.Body); err != nil {
		return
	}
	method := "?"
	if found := bodyStart.FindSubmatch(body.Bytes()[:min(body.Len(), 4096)]); found != nil {
		method = string(found[1])
	}
	bad := f.count(method, r, body.Bytes())
	defer f.landed()
	if bad != nil {
		switch {
		case bad.Reset:
			panic(http.ErrAbortHandler)
		case bad.Bomb != 0:
			w.Header().Set("Content-Encoding", "gzip")
			packer := gzip.NewWriter(w)
			for n := 0; n < bad.Bomb; n++ {
				_, _ = packer.Write(bytes.Repeat([]byte(" "), 1<<20))
			}
			_ = packer.Close()
			return
		case bad.Status != 0:
			w.Header().Set("Content-Type", "text/xml; charset=utf-8")
			w.WriteHeader(bad.Status)
			view := viewName.FindString(body.String())
			_, _ = w.Write([]byte(strings.ReplaceAll(bad.Body, "{view}", view)))
			return
		case bad.Expire:
			endSessions(cookieOf(r))
		}
		f.wait(bad.Delay)
	}
	answer := f.ask(method, r, body.Bytes())
	f.send(w, r, answer, bad != nil && bad.Cut)
}

func (f *front) landed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flying--
}

// wait waits for some seconds, or until all faults are ended.
func (f *front) wait(seconds float64) {
	f.mu.Lock()
	healed := f.healed
	f.mu.Unlock()
	for began := time.Now(); time.Since(began).Seconds() < seconds; time.Sleep(20 * time.Millisecond) {
		f.mu.Lock()
		over := f.healed != healed
		f.mu.Unlock()
		if over {
			return
		}
	}
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

func cookieOf(r *http.Request) string {
	if cookie, err := r.Cookie(soap.SessionCookieName); err == nil {
		return cookie.Value
	}
	return ""
}

// count notes a call, ends its session if that was idle, and returns the fault it shall have.
func (f *front) count(method string, r *http.Request, body []byte) *fault {
	now, key := theClock.now(), cookieOf(r)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[method]++
	if f.flying++; f.flying > f.most {
		f.most = f.flying
	}
	if last, ok := f.used[key]; ok {
		if f.idle > 0 && now-last > f.idle {
			endSessions(key)
			delete(f.used, key)
		} else {
			f.used[key] = now
		}
	}
	for n, bad := range f.faults {
		if (bad.Method == "" || bad.Method == method) && bytes.Contains(body, []byte(bad.About)) {
			if bad.Times--; bad.Times <= 0 {
				f.faults = append(f.faults[:n:n], f.faults[n+1:]...)
			}
			return bad
		}
	}
	return nil
}

// ask has the simulator answer.
func (f *front) ask(method string, r *http.Request, body []byte) *httptest.ResponseRecorder {
	recorder := httptest.NewRecorder()
	limit := settings().Elements
	if elements := bytes.Count(body, []byte("<")) - bytes.Count(body, []byte("</")); limit > 0 && elements > limit {
		recorder.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(recorder, tooManyElements, limit, method)
		return recorder
	}
	clone := r.Clone(r.Context())
	clone.Body = nopCloser{bytes.NewReader(body)}
	if method == "Login" {
		var login struct {
			Name string `xml:"Body>Login>userName"`
		}
		_ = xml.Unmarshal(body, &login)
		f.login.Lock()
		defer f.login.Unlock()
		if _, known := users[login.Name]; known {
			f.service.Listen.User = url.UserPassword(login.Name, *password)
		} else {
			f.service.Listen.User = url.UserPassword("root", *password)
		}
	}
	f.service.ServeMux.ServeHTTP(recorder, clone)
	switch method {
	case "Login", "CloneSession":
		for _, cookie := range recorder.Result().Cookies() {
			if cookie.Name == soap.SessionCookieName {
				f.mu.Lock()
				f.used[cookie.Value] = theClock.now()
				f.mu.Unlock()
			}
		}
	case "CurrentTime":
		told := "<returnval>" + moment(theClock.now()).Format(time.RFC3339Nano) + "</returnval>"
		text := returned.ReplaceAll(recorder.Body.Bytes(), []byte(told))
		recorder.Body = bytes.NewBuffer(text)
	}
	return recorder
}

type nopCloser struct{ *bytes.Reader }

func (nopCloser) Close() error { return nil }

var returned = regexp.MustCompile(`<returnval>.*</returnval>`)

// tooManyElements is what vCenter says to a request that is too large.
const tooManyElements = `<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenc="http://schemas.xmlsoap.org/soap/encoding/" xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body><soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>XML document element count exceeds configured maximum %d

while parsing serialized DataObject of type vim.PerformanceManager.MetricId

while parsing property &quot;metricId&quot; of static type ArrayOfPerfMetricId

while parsing call information for method %s

while parsing SOAP body</faultstring><detail><InvalidRequestFault xmlns="urn:vim25" xsi:type="InvalidRequest"></InvalidRequestFault></detail></soapenv:Fault></soapenv:Body></soapenv:Envelope>
`

// send sends an answer, compressed if the client likes that.
func (f *front) send(w http.ResponseWriter, r *http.Request, answer *httptest.ResponseRecorder, cut bool) {
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	text := answer.Body.Bytes()
	f.mu.Lock()
	plain, xsi := f.plain, f.xsi
	f.mu.Unlock()
	if xsi {
		text = bytes.ReplaceAll(text, []byte("XMLSchema-instance:type="), []byte("xsi:type="))
	}
	if !plain && len(text) > 1024 && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		var packed bytes.Buffer
		packer, _ := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
		_, _ = packer.Write(text)
		_ = packer.Close()
		text = packed.Bytes()
		w.Header().Set("Content-Encoding", "gzip")
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(text)))
	w.WriteHeader(answer.Code)
	if cut {
		_, _ = w.Write(text[:len(text)/2])
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(text)
}

func session() *simulator.Session {
	return &simulator.Session{Registry: simulator.NewRegistry()}
}

// sessions returns those that are open.
func sessions() []types.UserSession {
	manager := session().Get(*theContent().SessionManager).(*simulator.SessionManager)
	return manager.SessionList
}

// endSessions ends some, or, if none is named, all of them.
func endSessions(keys ...string) int {
	if len(keys) == 0 {
		for _, s := range sessions() {
			keys = append(keys, s.Key)
		}
	}
	ctx := &simulator.Context{Map: simulator.Map, Session: session()}
	for _, key := range keys {
		simulator.Map.SessionManager().TerminateSession(ctx, &types.TerminateSession{SessionId: []string{key}})
	}
	return len(keys)
}
