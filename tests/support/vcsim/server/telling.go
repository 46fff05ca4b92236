package main

import (
	"encoding/json"
	"fmt"
	"sort"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

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
