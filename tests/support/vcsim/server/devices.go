package main

import (
	"fmt"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// Controllers never change, so VMs share them.
var (
	scsiController = &types.ParaVirtualSCSIController{VirtualSCSIController: types.VirtualSCSIController{
		VirtualController: controller(1000, "SCSI controller 0"), SharedBus: "noSharing", ScsiCtlrUnitNumber: 7}}
	sataController = &types.VirtualAHCIController{VirtualSATAController: types.VirtualSATAController{
		VirtualController: controller(15000, "SATA controller 0")}}
	nvmeController = &types.VirtualNVMEController{VirtualController: controller(31000, "NVME controller 0")}
)

func controller(key int32, label string) types.VirtualController {
	return types.VirtualController{VirtualDevice: types.VirtualDevice{
		Key: key, DeviceInfo: &types.Description{Label: label, Summary: label}, ControllerKey: 100,
	}}
}

// newDisk returns the disk with a number, thin, on the controller of a bus.
func newDisk(bus string, n int, file string, store types.ManagedObjectReference) *types.VirtualDisk {
	capacity := int64(1+n) << 30
	unit := int32(n)
	disk := &types.VirtualDisk{
		VirtualDevice: types.VirtualDevice{
			Key: 2000 + int32(n),
			DeviceInfo: &types.Description{
				Label: fmt.Sprintf("Hard disk %d", n+1), Summary: fmt.Sprintf("%d KB", capacity/1024),
			},
			Backing: &types.VirtualDiskFlatVer2BackingInfo{
				VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: file, Datastore: &store},
				DiskMode:                     string(types.VirtualDiskModePersistent),
				ThinProvisioned:              types.NewBool(true),
			},
			ControllerKey: map[string]int32{"scsi": 1000, "sata": 15000, "nvme": 31000, "ide": 200}[bus],
			UnitNumber:    &unit,
		},
		CapacityInKB:    capacity / 1024,
		CapacityInBytes: capacity,
	}
	return disk
}

// newNIC returns the NIC with a number, of the VM with a number, with a port of Neutron's if one is
// given.
func newNIC(number, n int, network mo.Reference, port string) *types.VirtualVmxnet3 {
	unit := int32(7 + n)
	nic := &types.VirtualVmxnet3{}
	nic.VirtualEthernetCard = types.VirtualEthernetCard{
		VirtualDevice: types.VirtualDevice{
			Key:           4000 + int32(n),
			DeviceInfo:    &types.Description{Label: fmt.Sprintf("Network adapter %d", n+1), Summary: "VM Network"},
			ControllerKey: 100,
			UnitNumber:    &unit,
			Connectable:   &types.VirtualDeviceConnectInfo{StartConnected: true, Connected: true},
		},
		AddressType: "assigned",
		MacAddress:  fmt.Sprintf("00:50:56:%02x:%02x:%02x", number>>12&0x3f, number>>4&0xff, number&0xf<<4|n),
		ExternalId:  port,
	}
	switch net := network.(type) {
	case *simulator.DistributedVirtualPortgroup:
		dvs := simulator.Map.Get(*net.Config.DistributedVirtualSwitch).(*simulator.DistributedVirtualSwitch)
		nic.Backing = &types.VirtualEthernetCardDistributedVirtualPortBackingInfo{
			Port: types.DistributedVirtualSwitchPortConnection{
				PortgroupKey: net.Key, SwitchUuid: dvs.Uuid, PortKey: fmt.Sprint(number),
			},
		}
		nic.DeviceInfo.GetDescription().Summary = "DVSwitch: " + dvs.Uuid
	default:
		ref := network.Reference()
		nic.Backing = &types.VirtualEthernetCardNetworkBackingInfo{
			VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: "VM Network"},
			Network:                        &ref,
		}
	}
	return nic
}

func fileInfo(key int32, name, kind string, size int64) types.VirtualMachineFileLayoutExFileInfo {
	return types.VirtualMachineFileLayoutExFileInfo{
		Key: key, Name: name, Type: kind, Size: size, UniqueSize: size, Accessible: types.NewBool(true),
	}
}
