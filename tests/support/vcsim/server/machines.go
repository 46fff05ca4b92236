package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// What a test does to VMs is done by the methods that a client calls too.

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
