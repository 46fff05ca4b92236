package main

import (
	"fmt"
	"os"
	"path"
	"sort"
	"strings"
	"sync"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// world is what happened to VMs and hosts, as far as samples depend on it. It hears of every change
// from govmomi's registry, whoever made it: a test by control, or a client of the API.
type world struct {
	mu    sync.RWMutex
	vms   map[string]*vm
	hosts map[string]*host
	seen  int // changes of configuration
}

var theWorld = &world{vms: map[string]*vm{}, hosts: map[string]*host{}}

type vm struct {
	ref, name string
	host      string
	state     types.VirtualMachinePowerState
	kib       int64
	block     bool // its disks are on block storage, so it has counters of the group disk

	boot  float64 // sys.uptime counts from here
	pause float64 // when it was suspended
	since float64 // there are samples after this

	instances []instance
	draw      drawer
	rules     []rule
	gaps      []rule  // times of which there is no sample at all
	silent    []rule  // series that are not told
	late      float64 // seconds until a sample can be read
	short     bool    // its series are shorter than their times
	forbidden bool    // samples of it are not to be had, for want of a permission
	hidden    bool    // its configuration is not told, as where its files cannot be read
}

type host struct {
	clock float64 // seconds by which its clock is ahead
	sick  float64 // seconds that a call hangs which asks for one of its VMs
	lost  bool    // disconnected, or it does not respond
}

// A rule is a value that a test wants in place of the true one.
type rule struct {
	Counter  string   `json:"counter"`  // "" is any
	Instance *string  `json:"instance"` // nil is any
	From     float64  `json:"from"`
	To       float64  `json:"to"`
	Value    int64    `json:"value"`
	Until    *float64 `json:"until"` // the time from which on the true value is told
}

func (r rule) applies(counter, instance string, t int64, now float64) bool {
	return (r.Counter == "" || r.Counter == counter) &&
		(r.Instance == nil || *r.Instance == instance) &&
		r.From <= float64(t) && float64(t) <= r.To &&
		(r.Until == nil || now < *r.Until)
}

// Reference, PutObject, UpdateObject and RemoveObject make it a handler of govmomi's registry.
func (w *world) Reference() types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "World", Value: "world"}
}

func (w *world) PutObject(mo.Reference) {}

func (w *world) RemoveObject(ref types.ManagedObjectReference) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.vms, ref.Value)
}

func (w *world) UpdateObject(obj mo.Reference, changes []types.PropertyChange) {
	machine, ok := obj.(*mo.VirtualMachine)
	if !ok {
		return
	}
	w.mu.Lock()
	v := w.vms[machine.Self.Value]
	w.mu.Unlock()
	if v == nil {
		return
	}
	for _, change := range changes {
		switch change.Name {
		case "name":
			w.mu.Lock()
			v.name = machine.Name
			w.mu.Unlock()
		case "runtime.powerState":
			w.powered(v, machine)
		case "runtime.host":
			w.moved(v, machine)
		case "config.hardware.device":
			w.reconfigured(v, machine)
		}
	}
}

// powered has runtime.bootTime follow the power state, which govmomi forgets.
func (w *world) powered(v *vm, machine *mo.VirtualMachine) {
	w.mu.Lock()
	now := theClock.now()
	was := v.state
	v.state = machine.Runtime.PowerState
	var boot types.AnyType
	switch v.state {
	case types.VirtualMachinePowerStatePoweredOn:
		if was == types.VirtualMachinePowerStateSuspended {
			v.boot += now - v.pause
		} else {
			v.boot = now
		}
		v.since = now
		boot = moment(v.boot)
	case types.VirtualMachinePowerStateSuspended:
		v.pause = now
	}
	w.mu.Unlock()
	simulator.Map.Update(machine, []types.PropertyChange{
		{Name: "runtime.bootTime", Val: boot},
		{Name: "summary.runtime.bootTime", Val: boot},
	})
}

// moved has samples begin at the arrival, as the memory of samples is the host's.
func (w *world) moved(v *vm, machine *mo.VirtualMachine) {
	w.mu.Lock()
	was := v.host
	v.host = machine.Runtime.Host.Value
	if v.state == types.VirtualMachinePowerStatePoweredOn {
		v.since = theClock.now()
	}
	w.mu.Unlock()
	if h, ok := simulator.Map.Get(types.ManagedObjectReference{Type: "HostSystem", Value: was}).(*simulator.HostSystem); ok {
		simulator.Map.RemoveReference(h, &h.Vm, machine.Self)
	}
	h := simulator.Map.Get(*machine.Runtime.Host).(*simulator.HostSystem)
	simulator.Map.AddReference(h, &h.Vm, machine.Self)
}

// reconfigured gives new devices the keys and labels that a real host gives them.
func (w *world) reconfigured(v *vm, machine *mo.VirtualMachine) {
	devices := object.VirtualDeviceList(machine.Config.Hardware.Device)
	renumber(devices, 4000, "Network adapter", func(d types.BaseVirtualDevice) bool {
		_, is := d.(types.BaseVirtualEthernetCard)
		return is
	})
	renumber(devices, 2000, "Hard disk", func(d types.BaseVirtualDevice) bool {
		_, is := d.(*types.VirtualDisk)
		return is
	})
	for _, d := range devices {
		if disk, ok := d.(*types.VirtualDisk); ok {
			fill(machine, disk)
		}
	}
	w.mu.Lock()
	v.kib = int64(machine.Config.Hardware.MemoryMB) * 1024
	w.follow(v, machine)
	w.seen++
	version := changeVersion(w.seen)
	w.mu.Unlock()
	simulator.Map.Update(machine, []types.PropertyChange{{Name: "config.changeVersion", Val: version}})
}

func changeVersion(n int) string {
	return moment(theClock.now()).Format("2006-01-02T15:04:05") + fmt.Sprintf(".%06dZ", n)
}

// follow notes which instances a VM has from now on, and which no longer.
func (w *world) follow(v *vm, machine *mo.VirtualMachine) {
	now := theClock.now()
	there := map[[2]string]bool{}
	for _, name := range instancesOf(machine) {
		there[name] = true
	}
	for n := range v.instances {
		i := &v.instances[n]
		if i.until != 0 {
			continue
		}
		name := [2]string{i.group, i.name}
		if !there[name] {
			i.until = now
		}
		delete(there, name)
	}
	var added []instance
	for name := range there {
		added = append(added, instance{name[0], name[1], span{since: now}})
	}
	sort.Slice(added, func(a, b int) bool { return added[a].name < added[b].name })
	v.instances = append(v.instances, added...)
}

// instancesOf returns the groups and names of what a VM has.
func instancesOf(machine *mo.VirtualMachine) [][2]string {
	var found [][2]string
	for n := int32(0); n < machine.Config.Hardware.NumCPU; n++ {
		found = append(found, [2]string{"cpu", fmt.Sprint(n)})
	}
	devices := object.VirtualDeviceList(machine.Config.Hardware.Device)
	for _, d := range devices {
		switch x := d.(type) {
		case types.BaseVirtualEthernetCard:
			found = append(found, [2]string{"net", fmt.Sprint(x.GetVirtualEthernetCard().Key)})
		case *types.VirtualDisk:
			if name := diskName(devices, x); name != "" {
				found = append(found, [2]string{"virtualDisk", name})
			}
		}
	}
	return found
}

// diskName returns what virtualDisk.* calls a disk: the bus of its controller and its unit there.
func diskName(devices object.VirtualDeviceList, disk *types.VirtualDisk) string {
	controller, ok := devices.FindByKey(disk.ControllerKey).(types.BaseVirtualController)
	if !ok || disk.UnitNumber == nil {
		return ""
	}
	bus := ""
	switch controller.(type) {
	case types.BaseVirtualSCSIController:
		bus = "scsi"
	case types.BaseVirtualSATAController:
		bus = "sata"
	case *types.VirtualIDEController:
		bus = "ide"
	case *types.VirtualNVMEController:
		bus = "nvme"
	default:
		return ""
	}
	return fmt.Sprintf("%s%d:%d", bus, controller.GetVirtualController().BusNumber, *disk.UnitNumber)
}

// renumber gives the devices of a kind keys from `first` on, and labels that count from 1.
func renumber(devices object.VirtualDeviceList, first int32, label string, is func(types.BaseVirtualDevice) bool) {
	taken := map[int32]bool{}
	var strange []*types.VirtualDevice
	for _, d := range devices {
		if !is(d) {
			continue
		}
		base := d.GetVirtualDevice()
		if base.Key >= first && base.Key < first+100 {
			taken[base.Key] = true
		} else {
			strange = append(strange, base)
		}
	}
	for _, base := range strange {
		key := first
		for taken[key] {
			key++
		}
		taken[key] = true
		base.Key = key
		base.DeviceInfo = &types.Description{
			Label:   fmt.Sprintf("%s %d", label, key-first+1),
			Summary: base.DeviceInfo.GetDescription().Summary,
		}
	}
}

// fill has the file of a disk be as large as fileSize says, without using any space.
func fill(machine *mo.VirtualMachine, disk *types.VirtualDisk) {
	if disk.CapacityInBytes == 0 {
		disk.CapacityInBytes = disk.CapacityInKB * 1024
	}
	backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	if !ok || backing.Datastore == nil {
		return
	}
	var at object.DatastorePath
	if !at.FromString(backing.FileName) {
		return
	}
	store, ok := simulator.Map.Get(*backing.Datastore).(*simulator.Datastore)
	if !ok {
		return
	}
	flat := strings.TrimSuffix(at.Path, ".vmdk") + "-flat.vmdk"
	file := path.Join(store.Info.GetDatastoreInfo().Url, flat)
	if _, err := os.Stat(file); err == nil {
		_ = os.Truncate(file, fileSize(disk.CapacityInBytes))
	}
}

// fileSize is what a thin disk takes of its datastore.
func fileSize(capacity int64) int64 {
	return capacity / 5 * 2
}
