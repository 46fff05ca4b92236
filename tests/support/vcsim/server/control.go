package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"sort"
	"sync/atomic"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
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
		"spoil": c.spoil, "heal": c.heal, "host": c.host, "fail": c.fail,
		"restart": c.restart, "gzip": c.gzip, "half_clone": c.halfClone, "reconfigure": c.reshape,
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

// done returns the fault of a task, which is over by now.
func done(ref types.ManagedObjectReference, err error) (interface{}, error) {
	if err != nil {
		return nil, err
	}
	task := simulator.Map.Get(ref).(*simulator.Task)
	if task.Info.Error != nil {
		return nil, fmt.Errorf("%s: %T", task.Info.Name, task.Info.Error.Fault)
	}
	return nil, nil
}

func (c *control) power(asked map[string]json.RawMessage) (interface{}, error) {
	_, machine, err := findVM(asked)
	if err != nil {
		return nil, err
	}
	var to string
	if err := get(asked, "to", &to); err != nil {
		return nil, err
	}
	ctx, this := context.Background(), machine.Self
	switch to {
	case "on":
		r, err := methods.PowerOnVM_Task(ctx, c.client, &types.PowerOnVM_Task{This: this})
		if err != nil {
			return nil, err
		}
		return done(r.Returnval, nil)
	case "off":
		r, err := methods.PowerOffVM_Task(ctx, c.client, &types.PowerOffVM_Task{This: this})
		if err != nil {
			return nil, err
		}
		return done(r.Returnval, nil)
	case "suspended":
		r, err := methods.SuspendVM_Task(ctx, c.client, &types.SuspendVM_Task{This: this})
		if err != nil {
			return nil, err
		}
		return done(r.Returnval, nil)
	}
	return nil, fmt.Errorf("power is on, off or suspended, and not %q", to)
}

func (c *control) migrate(asked map[string]json.RawMessage) (interface{}, error) {
	_, machine, err := findVM(asked)
	if err != nil {
		return nil, err
	}
	_, to, err := findHost(asked)
	if err != nil {
		return nil, err
	}
	r, err := methods.RelocateVM_Task(context.Background(), c.client, &types.RelocateVM_Task{
		This: machine.Self, Spec: types.VirtualMachineRelocateSpec{Host: &to.Self},
	})
	if err != nil {
		return nil, err
	}
	return done(r.Returnval, nil)
}

func (c *control) delete(asked map[string]json.RawMessage) (interface{}, error) {
	_, machine, err := findVM(asked)
	if err != nil {
		return nil, err
	}
	if machine.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn {
		r, err := methods.PowerOffVM_Task(context.Background(), c.client, &types.PowerOffVM_Task{This: machine.Self})
		if err != nil {
			return nil, err
		}
		if _, err := done(r.Returnval, nil); err != nil {
			return nil, err
		}
	}
	r, err := methods.Destroy_Task(context.Background(), c.client, &types.Destroy_Task{This: machine.Self})
	if err != nil {
		return nil, err
	}
	return done(r.Returnval, nil)
}

var created int64 = 100000

func (c *control) create(asked map[string]json.RawMessage) (interface{}, error) {
	number := int(atomic.AddInt64(&created, 1))
	s := shapeOf(number)
	s.Host = 0
	text, _ := json.Marshal(asked)
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, err
	}
	if s.Host < 0 || s.Host >= len(hostList) {
		return nil, fmt.Errorf("there is no host %d", s.Host)
	}
	return addVM(s, types.VirtualMachinePowerStatePoweredOn, false, true).Self.Value, nil
}

// halfClone adds a VM as it is while it is being cloned: without configuration and host.
func (c *control) halfClone(map[string]json.RawMessage) (interface{}, error) {
	machine := &simulator.VirtualMachine{}
	machine.Name = "Unknown"
	machine.Runtime.ConnectionState = types.VirtualMachineConnectionStateInvalid
	machine.Runtime.PowerState = types.VirtualMachinePowerStatePoweredOff
	simulator.Map.NewEntity(machine)
	simulator.Map.AppendReference(folder, &folder.ChildEntity, machine.Self)
	simulator.Map.PutEntity(folder, machine)
	return machine.Self.Value, nil
}

// reshape changes what a VM has of CPUs and memory, and its annotation.
func (c *control) reshape(asked map[string]json.RawMessage) (interface{}, error) {
	_, machine, err := findVM(asked)
	if err != nil {
		return nil, err
	}
	spec := types.VirtualMachineConfigSpec{}
	for name, into := range map[string]interface{}{
		"cpus": &spec.NumCPUs, "mib": &spec.MemoryMB, "name": &spec.Name, "annotation": &spec.Annotation,
	} {
		if err := get(asked, name, into); err != nil {
			return nil, err
		}
	}
	r, err := methods.ReconfigVM_Task(context.Background(), c.client, &types.ReconfigVM_Task{This: machine.Self, Spec: spec})
	if err != nil {
		return nil, err
	}
	return done(r.Returnval, nil)
}

func (c *control) reconfigure(machine *simulator.VirtualMachine, changes ...types.BaseVirtualDeviceConfigSpec) (interface{}, error) {
	r, err := methods.ReconfigVM_Task(context.Background(), c.client, &types.ReconfigVM_Task{
		This: machine.Self, Spec: types.VirtualMachineConfigSpec{DeviceChange: changes},
	})
	if err != nil {
		return nil, err
	}
	return done(r.Returnval, nil)
}

func (c *control) addNIC(asked map[string]json.RawMessage) (interface{}, error) {
	_, machine, err := findVM(asked)
	if err != nil {
		return nil, err
	}
	nic := &types.VirtualVmxnet3{}
	nic.Key = -1
	nic.Backing = &types.VirtualEthernetCardNetworkBackingInfo{
		VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: "VM Network"},
	}
	if _, err := c.reconfigure(machine, &types.VirtualDeviceConfigSpec{
		Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: nic,
	}); err != nil {
		return nil, err
	}
	return fmt.Sprint(nic.Key), nil
}

func (c *control) addDisk(asked map[string]json.RawMessage) (interface{}, error) {
	_, machine, err := findVM(asked)
	if err != nil {
		return nil, err
	}
	devices := object.VirtualDeviceList(machine.Config.Hardware.Device)
	disk := newDisk("scsi", 0, fmt.Sprintf("[%s]", datastore), machine.Datastore[0])
	disk.Key = -1
	for _, d := range devices {
		if other, ok := d.(*types.VirtualDisk); ok {
			disk.ControllerKey = other.ControllerKey
			if *other.UnitNumber >= *disk.UnitNumber {
				*disk.UnitNumber = *other.UnitNumber + 1
			}
		}
	}
	if *disk.UnitNumber == 7 { // that is the controller itself
		*disk.UnitNumber++
	}
	if _, err := c.reconfigure(machine, &types.VirtualDeviceConfigSpec{
		Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: disk,
		FileOperation: types.VirtualDeviceConfigSpecFileOperationCreate,
	}); err != nil {
		return nil, err
	}
	return diskName(machine.Config.Hardware.Device, disk), nil
}

func (c *control) removeDevice(asked map[string]json.RawMessage) (interface{}, error) {
	_, machine, err := findVM(asked)
	if err != nil {
		return nil, err
	}
	var name string
	if err := get(asked, "device", &name); err != nil {
		return nil, err
	}
	devices := object.VirtualDeviceList(machine.Config.Hardware.Device)
	for _, d := range devices {
		disk, isDisk := d.(*types.VirtualDisk)
		_, isNIC := d.(types.BaseVirtualEthernetCard)
		if isDisk && diskName(devices, disk) == name || isNIC && fmt.Sprint(d.GetVirtualDevice().Key) == name {
			return c.reconfigure(machine, &types.VirtualDeviceConfigSpec{
				Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: d,
			})
		}
	}
	return nil, fmt.Errorf("the VM has no %q", name)
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
	if asked["value"] == nil {
		v.gaps = append(v.gaps, r)
	} else {
		v.rules = append(v.rules, r)
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
	v.rules, v.gaps, v.late, v.short = nil, nil, 0, false
	return nil, nil
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

func (c *control) gzip(asked map[string]json.RawMessage) (interface{}, error) {
	on := true
	if err := get(asked, "on", &on); err != nil {
		return nil, err
	}
	c.front.mu.Lock()
	defer c.front.mu.Unlock()
	c.front.plain = !on
	return nil, nil
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

func (c *control) hosts(map[string]json.RawMessage) (interface{}, error) {
	found := []map[string]interface{}{}
	for _, hs := range hostList {
		found = append(found, map[string]interface{}{
			"ref": hs.Self.Value, "name": hs.Name, "uuid": hs.Hardware.SystemInfo.Uuid,
			"threads": hs.Hardware.CpuInfo.NumCpuThreads, "state": hs.Runtime.ConnectionState,
		})
	}
	return found, nil
}

// children returns the VMs of the folder, or of a host, as they are now.
func children(of mo.Reference, refs *[]types.ManagedObjectReference) (copied []types.ManagedObjectReference) {
	simulator.Map.WithLock(of, func() { copied = append(copied, *refs...) })
	return copied
}

// vms tells all there is to know of VMs, or of one, in the order of their making.
func (c *control) vms(asked map[string]json.RawMessage) (interface{}, error) {
	numbers := map[string]int{}
	for n, hs := range hostList {
		numbers[hs.Self.Value] = n
	}
	refs := children(folder, &folder.ChildEntity)
	if asked["vm"] != nil {
		_, machine, err := findVM(asked)
		if err != nil {
			return nil, err
		}
		refs = []types.ManagedObjectReference{machine.Self}
	}
	found := []map[string]interface{}{}
	for _, ref := range refs {
		machine, ok := simulator.Map.Get(ref).(*simulator.VirtualMachine)
		if !ok {
			continue
		}
		// In this order, as who changes a VM holds its lock and then wants the world's.
		simulator.Map.WithLock(machine, func() {
			theWorld.mu.RLock()
			defer theWorld.mu.RUnlock()
			if v := theWorld.vms[ref.Value]; v != nil {
				found = append(found, tell(v, &machine.VirtualMachine, numbers[v.host]))
			}
		})
	}
	return found, nil
}

func tell(v *vm, machine *mo.VirtualMachine, host int) map[string]interface{} {
	instances := []map[string]interface{}{}
	for _, i := range v.instances {
		instances = append(instances, map[string]interface{}{
			"group": i.group, "name": i.name, "since": i.since, "until": i.until,
		})
	}
	nics, disks := []map[string]interface{}{}, []map[string]interface{}{}
	sizes := map[int32]int64{}
	for _, file := range machine.LayoutEx.File {
		sizes[file.Key] = file.Size
	}
	allocated := map[int32]int64{}
	for _, disk := range machine.LayoutEx.Disk {
		for _, unit := range disk.Chain {
			for _, key := range unit.FileKey {
				allocated[disk.Key] += sizes[key]
			}
		}
	}
	devices := object.VirtualDeviceList(machine.Config.Hardware.Device)
	for _, d := range devices {
		switch x := d.(type) {
		case types.BaseVirtualEthernetCard:
			card := x.GetVirtualEthernetCard()
			nics = append(nics, map[string]interface{}{
				"key": fmt.Sprint(card.Key), "mac": card.MacAddress, "label": card.DeviceInfo.GetDescription().Label,
				"external_id": card.ExternalId,
			})
		case *types.VirtualDisk:
			disks = append(disks, map[string]interface{}{
				"key": x.Key, "name": diskName(devices, x), "capacity": x.CapacityInBytes, "allocated": allocated[x.Key],
			})
		}
	}
	sort.Slice(nics, func(a, b int) bool { return nics[a]["key"].(string) < nics[b]["key"].(string) })
	extra := map[string]interface{}{}
	for _, option := range machine.Config.ExtraConfig {
		value := option.GetOptionValue()
		extra[value.Key] = value.Value
	}
	return map[string]interface{}{
		"ref": v.ref, "name": v.name, "host": host, "state": v.state, "uuid": machine.Config.InstanceUuid,
		"cpus": machine.Config.Hardware.NumCPU, "mib": machine.Config.Hardware.MemoryMB, "template": machine.Config.Template,
		"boot": v.boot, "since": v.since, "block": v.block, "ahead": theWorld.hosts[v.host].clock,
		"change_version": machine.Config.ChangeVersion, "annotation": machine.Config.Annotation, "extra": extra,
		"nics": nics, "disks": disks, "instances": instances,
	}
}
