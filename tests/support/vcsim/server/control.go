package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"
)

// control is what a test asks and does: POST /name with a JSON object, which gives a JSON value.
// What is wrong is status 400 with a sentence.
type control struct {
	front  *front
	client *vim25.Client
	verbs  map[string]func(map[string]json.RawMessage) (interface{}, error)
}

func newControl(f *front) *control {
	client, err := vim25.NewClient(context.Background(), f.service)
	if err != nil {
		panic(err)
	}
	c := &control{front: f, client: client}
	c.verbs = map[string]func(map[string]json.RawMessage) (interface{}, error){
		"clock": c.clock, "vms": c.vms, "hosts": c.hosts, "calls": c.calls, "forget": c.forget, "load": c.load, "queries": c.queries,
		"sessions": c.sessions, "end_sessions": c.endSessions, "idle": c.idle, "page": c.page, "limits": c.limits,
		"power": c.power, "migrate": c.migrate, "delete": c.delete, "create": c.create,
		"add_nic": c.addNIC, "add_disk": c.addDisk, "remove_device": c.removeDevice,
		"spoil": c.spoil, "heal": c.heal, "host": c.host, "fail": c.fail, "hide": c.hide,
		"restart": c.restart, "style": c.style, "half_clone": c.halfClone, "reconfigure": c.reshape,
	}
	return c
}

func (c *control) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	asked := map[string]json.RawMessage{}
	verb := c.verbs[r.URL.Path[1:]]
	var answer interface{}
	err := fmt.Errorf("there is no %s", r.URL.Path)
	if verb != nil {
		if err = json.NewDecoder(r.Body).Decode(&asked); err == nil {
			answer, err = verb(asked)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		answer = err.Error()
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// get reads an argument into a pointer; one that is not given leaves it as it is.
func get(asked map[string]json.RawMessage, name string, into interface{}) error {
	if text, ok := asked[name]; ok {
		if err := json.Unmarshal(text, into); err != nil {
			return fmt.Errorf("%s: %s", name, err)
		}
	}
	return nil
}

func (c *control) clock(asked map[string]json.RawMessage) (interface{}, error) {
	step, set := 0.0, 0.0
	if err := get(asked, "step", &step); err != nil {
		return nil, err
	}
	if err := get(asked, "set", &set); err != nil {
		return nil, err
	}
	if set != 0 {
		theClock.set(set)
	} else if step != 0 {
		theClock.set(theClock.now() + step)
	}
	return theClock.now(), nil
}

// findVM finds a VM by its reference or name.
func findVM(asked map[string]json.RawMessage) (*vm, *simulator.VirtualMachine, error) {
	var name string
	if err := get(asked, "vm", &name); err != nil {
		return nil, nil, err
	}
	theWorld.mu.RLock()
	defer theWorld.mu.RUnlock()
	v := theWorld.vms[name]
	for _, other := range theWorld.vms {
		if v == nil && other.name == encoded(name) {
			v = other
		}
	}
	if v == nil {
		return nil, nil, fmt.Errorf("there is no VM %q", name)
	}
	machine, ok := simulator.Map.Get(types.ManagedObjectReference{Type: "VirtualMachine", Value: v.ref}).(*simulator.VirtualMachine)
	if !ok {
		return nil, nil, fmt.Errorf("VM %q is being deleted", name)
	}
	return v, machine, nil
}

// findHost finds a host by its number, as in `hosts`.
func findHost(asked map[string]json.RawMessage) (*host, *simulator.HostSystem, error) {
	n := 0
	if err := get(asked, "host", &n); err != nil {
		return nil, nil, err
	}
	if n < 0 || n >= len(hostList) {
		return nil, nil, fmt.Errorf("there is no host %d", n)
	}
	return theWorld.hosts[hostList[n].Self.Value], hostList[n], nil
}

// spoil does something to the samples of a VM.
func (c *control) spoil(asked map[string]json.RawMessage) (interface{}, error) {
	v, _, err := findVM(asked)
	if err != nil {
		return nil, err
	}
	theWorld.mu.Lock()
	defer theWorld.mu.Unlock()
	if asked["late"] != nil || asked["short"] != nil {
		if err := get(asked, "short", &v.short); err != nil {
			return nil, err
		}
		return nil, get(asked, "late", &v.late)
	}
	r := rule{From: math.Inf(-1), To: math.Inf(1), Value: missing}
	text, _ := json.Marshal(asked)
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, err
	}
	switch {
	case asked["silent"] != nil:
		v.silent = append(v.silent, r)
	case asked["value"] != nil:
		v.rules = append(v.rules, r)
	default:
		v.gaps = append(v.gaps, r)
	}
	return nil, nil
}

func (c *control) heal(asked map[string]json.RawMessage) (interface{}, error) {
	v, _, err := findVM(asked)
	if err != nil {
		return nil, err
	}
	theWorld.mu.Lock()
	defer theWorld.mu.Unlock()
	v.rules, v.gaps, v.silent, v.late, v.short = nil, nil, nil, 0, false
	return nil, nil
}

// hide has the configuration of a VM not be told, or be told again.
func (c *control) hide(asked map[string]json.RawMessage) (interface{}, error) {
	v, _, err := findVM(asked)
	if err != nil {
		return nil, err
	}
	theWorld.mu.Lock()
	defer theWorld.mu.Unlock()
	if err := get(asked, "forbidden", &v.forbidden); err != nil {
		return nil, err
	}
	return nil, get(asked, "hidden", &v.hidden)
}

// host changes a host: its clock, how long it hangs, and its connection.
func (c *control) host(asked map[string]json.RawMessage) (interface{}, error) {
	h, hs, err := findHost(asked)
	if err != nil {
		return nil, err
	}
	state := hs.Runtime.ConnectionState
	theWorld.mu.Lock()
	for name, into := range map[string]interface{}{"clock": &h.clock, "sick": &h.sick, "state": &state} {
		if e := get(asked, name, into); e != nil {
			err = e
		}
	}
	h.lost = state != types.HostSystemConnectionStateConnected
	theWorld.mu.Unlock()
	if err != nil || state == hs.Runtime.ConnectionState {
		return nil, err
	}
	simulator.Map.WithLock(hs, func() {
		simulator.Map.Update(hs, []types.PropertyChange{{Name: "runtime.connectionState", Val: state}})
	})
	reached := types.VirtualMachineConnectionStateConnected
	if h.lost {
		reached = types.VirtualMachineConnectionStateDisconnected
	}
	for _, ref := range children(hs, &hs.Vm) {
		machine := simulator.Map.Get(ref)
		if machine == nil {
			continue
		}
		simulator.Map.WithLock(machine, func() {
			simulator.Map.Update(machine, []types.PropertyChange{
				{Name: "runtime.connectionState", Val: reached},
				{Name: "summary.runtime.connectionState", Val: reached},
			})
		})
	}
	return nil, nil
}

func (c *control) calls(map[string]json.RawMessage) (interface{}, error) {
	c.front.mu.Lock()
	defer c.front.mu.Unlock()
	copied := map[string]int{}
	for name, n := range c.front.calls {
		copied[name] = n
	}
	return copied, nil
}

func (c *control) forget(map[string]json.RawMessage) (interface{}, error) {
	c.front.mu.Lock()
	defer c.front.mu.Unlock()
	c.front.calls, c.front.most = map[string]int{}, c.front.flying
	perfMutex.Lock()
	defer perfMutex.Unlock()
	perfQueries = nil
	return nil, nil
}

// load tells how many calls are being answered, and how many were at once at most.
func (c *control) load(map[string]json.RawMessage) (interface{}, error) {
	c.front.mu.Lock()
	defer c.front.mu.Unlock()
	return map[string]int{"now": c.front.flying, "most": c.front.most}, nil
}

// queries tells what was asked in each QueryPerf.
func (c *control) queries(map[string]json.RawMessage) (interface{}, error) {
	perfMutex.Lock()
	defer perfMutex.Unlock()
	return append([]perfQuery{}, perfQueries...), nil
}

func (c *control) sessions(map[string]json.RawMessage) (interface{}, error) {
	found := []map[string]interface{}{}
	for _, s := range sessions() {
		found = append(found, map[string]interface{}{"user": s.UserName, "agent": s.UserAgent, "key": s.Key})
	}
	return found, nil
}

func (c *control) endSessions(map[string]json.RawMessage) (interface{}, error) {
	return endSessions(), nil
}

func (c *control) idle(asked map[string]json.RawMessage) (interface{}, error) {
	c.front.mu.Lock()
	defer c.front.mu.Unlock()
	return nil, get(asked, "seconds", &c.front.idle)
}

// style sets what answers look like: `gzip`, which they are at first, and `xsi`.
func (c *control) style(asked map[string]json.RawMessage) (interface{}, error) {
	c.front.mu.Lock()
	defer c.front.mu.Unlock()
	packed := !c.front.plain
	if err := get(asked, "gzip", &packed); err != nil {
		return nil, err
	}
	c.front.plain = !packed
	return nil, get(asked, "xsi", &c.front.xsi)
}

func (c *control) page(asked map[string]json.RawMessage) (interface{}, error) {
	n := int64(0)
	if err := get(asked, "size", &n); err != nil {
		return nil, err
	}
	atomic.StoreInt64(&pageLimit, n)
	return nil, nil
}

func (c *control) limits(asked map[string]json.RawMessage) (interface{}, error) {
	perfMutex.Lock()
	defer perfMutex.Unlock()
	text, _ := json.Marshal(asked)
	if err := json.Unmarshal(text, &perfSet); err != nil {
		return nil, err
	}
	renumberCounters(perfSet.CounterOffset)
	return nil, nil
}

func (c *control) fail(asked map[string]json.RawMessage) (interface{}, error) {
	bad := &fault{Times: 1}
	text, _ := json.Marshal(asked)
	if err := json.Unmarshal(text, bad); err != nil {
		return nil, err
	}
	c.front.mu.Lock()
	defer c.front.mu.Unlock()
	if bad.Times == 0 {
		c.front.faults = nil
		c.front.healed++
	} else {
		c.front.faults = append(c.front.faults, bad)
	}
	return nil, nil
}

// restart ends all sessions and connections, and listens again after some seconds, with another
// certificate if one is named.
func (c *control) restart(asked map[string]json.RawMessage) (interface{}, error) {
	down, cert, key := 0.0, *certFile, *keyFile
	for name, into := range map[string]interface{}{"seconds": &down, "cert": &cert, "key": &key} {
		if err := get(asked, name, into); err != nil {
			return nil, err
		}
	}
	certificate, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	c.front.certificate = certificate
	c.front.close()
	endSessions()
	time.Sleep(time.Duration(down * float64(time.Second)))
	return nil, c.front.listen(c.front.port)
}
