package main

import (
	"crypto/sha1"
	"fmt"
	"net/url"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/simulator/esx"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

const datastore = "LocalDS_0"

// What govmomi made, and VMs are put into.
var (
	dc       *simulator.Datacenter
	folder   *simulator.Folder
	store    *simulator.Datastore
	hostList []*simulator.HostSystem
)

// createInventory has govmomi make the hosts, and adds VMs to them.
//
// VMs are put into the inventory as they are, and not made by CreateVM_Task, as that takes 1.5 ms
// and four files for each. From then on they are like any other.
func createInventory() (*simulator.Model, error) {
	model := simulator.VPX()
	if *standalone {
		model = simulator.ESX()
		*hosts = 1
	}
	model.Machine, model.Host = 0, 0
	model.Cluster, model.ClusterHost = clusters(*hosts)
	if *standalone {
		model.Cluster = 0
	}
	if err := model.Create(); err != nil {
		return nil, err
	}
	model.Service.Listen = &url.URL{}
	simulator.Map.AddHandler(theWorld)
	installPerf()
	installProperties()

	dc = simulator.Map.Any("Datacenter").(*simulator.Datacenter)
	folder = simulator.Map.Get(dc.VmFolder).(*simulator.Folder)
	store = simulator.Map.FindByName(datastore, dc.Datastore).(*simulator.Datastore)
	hostList = hostsBelow(dc.HostFolder)
	for n, h := range hostList {
		h.Hardware.CpuInfo.NumCpuThreads = int16(16 + 8*(n%3))
		h.Summary.Hardware.NumCpuThreads = h.Hardware.CpuInfo.NumCpuThreads
		theWorld.hosts[h.Self.Value] = &host{}
	}
	total := *vms + *off + *suspended + *templates
	if *novas < 0 {
		*novas = (*vms + 1) / 2
	}
	for i := 0; i < total; i++ {
		state := types.VirtualMachinePowerStatePoweredOn
		switch {
		case i < *vms:
		case i < *vms+*off:
			state = types.VirtualMachinePowerStatePoweredOff
		case i < *vms+*off+*suspended:
			state = types.VirtualMachinePowerStateSuspended
		default:
			state = types.VirtualMachinePowerStatePoweredOff
		}
		addVM(shapeOf(i), state, i >= total-*templates, false)
	}
	return model, nil
}

// clusters returns how many clusters of how many hosts there are.
func clusters(hosts int) (int, int) {
	for size := 40; size > 1; size-- {
		if hosts%size == 0 {
			return hosts / size, size
		}
	}
	return hosts, 1
}

// hostsBelow returns the hosts in the order of their making.
func hostsBelow(ref types.ManagedObjectReference) []*simulator.HostSystem {
	var below []types.ManagedObjectReference
	switch x := simulator.Map.Get(ref).(type) {
	case *simulator.Folder:
		below = x.ChildEntity
	case *mo.ComputeResource:
		below = x.Host
	case *simulator.ClusterComputeResource:
		below = x.Host
	case *simulator.HostSystem:
		return []*simulator.HostSystem{x}
	}
	var found []*simulator.HostSystem
	for _, child := range below {
		found = append(found, hostsBelow(child)...)
	}
	return found
}

// A shape is what a VM is made with.
type shape struct {
	Number int    `json:"number"`
	Name   string `json:"name"`
	Host   int    `json:"host"`
	CPUs   int32  `json:"cpus"`
	MiB    int32  `json:"mib"`
	NICs   int    `json:"nics"`
	Disks  int    `json:"disks"`
	Bus    string `json:"bus"`
	Block  bool   `json:"block"`
	Nova   bool   `json:"nova"`
}

// shapeOf returns the shape of the VM with a number: a few of each kind.
func shapeOf(i int) shape {
	s := shape{
		Number: i,
		Name:   fmt.Sprintf("vm-%04d", i),
		Host:   i % *hosts,
		CPUs:   int32(1 + i%4),
		MiB:    int32(512 * (1 + i%8)),
		NICs:   1 + i%3%2,
		Disks:  1 + i%2,
		Bus:    "scsi",
		Block:  i%2 == 0,
		Nova:   i%2 == 0 && i/2 < *novas,
	}
	switch i % 8 {
	case 5:
		s.Bus = "nvme"
	case 6:
		s.Bus = "sata"
	case 7:
		s.Bus = "ide"
	}
	switch i {
	case 1:
		s.Name = `web/1 "ü" <&>`
	case 3:
		s.Name = `50% of C:\`
	}
	return s
}

// encoded is a name as vCenter tells it: only what would look like a path is encoded.
func encoded(name string) string {
	return strings.NewReplacer("%", "%25", "/", "%2f", `\`, "%5c").Replace(name)
}

// uuid makes up a UUID, always the same one for the same words.
func uuid(words ...interface{}) string {
	h := sha1.Sum([]byte(fmt.Sprintln(words...)))
	h[6], h[8] = h[6]&0x0f|0x50, h[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// addVM puts a VM into the inventory. One that is `fresh` was powered on now, the others hours ago.
func addVM(s shape, state types.VirtualMachinePowerState, template, fresh bool) *simulator.VirtualMachine {
	now := theClock.now()
	hs := hostList[s.Host]
	pool := poolOf(hs)
	name := encoded(s.Name)
	directory := fmt.Sprintf("[%s] vm-%d", datastore, s.Number)

	machine := &simulator.VirtualMachine{}
	machine.Name = name
	machine.ResourcePool = &pool.Self
	machine.Datastore = []types.ManagedObjectReference{store.Self}
	config := &types.VirtualMachineConfigInfo{
		ChangeVersion: changeVersion(0),
		Modified:      moment(now),
		Name:          name,
		GuestFullName: "Other Linux (64-bit)",
		GuestId:       string(types.VirtualMachineGuestOsIdentifierOtherLinux64Guest),
		Version:       "vmx-13",
		Uuid:          uuid(*seed, "bios", s.Number),
		InstanceUuid:  uuid(*seed, "instance", s.Number),
		Template:      template,
		Files:         types.VirtualMachineFileInfo{VmPathName: directory + "/vm.vmx", LogDirectory: directory},
		ExtraConfig:   []types.BaseOptionValue{&types.OptionValue{Key: "nvram", Value: "vm.nvram"}},
		Tools:         &types.ToolsConfigInfo{},
		BootOptions:   &types.VirtualMachineBootOptions{},
	}
	resources := types.DefaultResourceConfigSpec()
	config.CpuAllocation, config.MemoryAllocation = &resources.CpuAllocation, &resources.MemoryAllocation
	config.Hardware.NumCPU, config.Hardware.MemoryMB = s.CPUs, s.MiB
	config.Hardware.NumCoresPerSocket = 1

	devices := append(object.VirtualDeviceList{}, esx.VirtualDevice...)
	switch s.Bus {
	case "scsi":
		devices = append(devices, scsiController)
	case "sata":
		devices = append(devices, sataController)
	case "nvme":
		devices = append(devices, nvmeController)
	}
	layout := &types.VirtualMachineFileLayoutEx{Timestamp: moment(now)}
	for n := 0; n < s.Disks; n++ {
		file := fmt.Sprintf("%s/vm_%d.vmdk", directory, n)
		disk := newDisk(s.Bus, n, file, store.Self)
		devices = append(devices, disk)
		layout.File = append(layout.File,
			fileInfo(int32(2*n), strings.TrimSuffix(file, ".vmdk")+"-flat.vmdk", "diskExtent", fileSize(disk.CapacityInBytes)),
			fileInfo(int32(2*n+1), file, "diskDescriptor", 512))
		layout.Disk = append(layout.Disk, types.VirtualMachineFileLayoutExDiskLayout{
			Key:   disk.Key,
			Chain: []types.VirtualMachineFileLayoutExDiskUnit{{FileKey: []int32{int32(2 * n), int32(2*n + 1)}}},
		})
	}
	if s.Nova {
		config.Annotation = fmt.Sprintf("name:instance-%d\nuserid:%s\nusername:demo\nprojectid:%s\nprojectname:demo\n"+
			"flavor:name:m1.small\nflavor:memory_mb:%d\nflavor:vcpus:%d\nflavor:ephemeral_gb:0\nflavor:root_gb:1\nflavor:swap:0\n"+
			"imageid:%s\npackage:27.0.0\n",
			s.Number, hex(uuid(*seed, "user", s.Number%2)), hex(uuid(*seed, "project", s.Number%4)), s.MiB, s.CPUs, uuid(*seed, "image"))
		config.ExtraConfig = append(config.ExtraConfig, &types.OptionValue{Key: "nvp.vm-uuid", Value: config.InstanceUuid})
	}
	networks := dc.Network
	for n := 0; n < s.NICs; n++ {
		external := ""
		if s.Nova {
			port := uuid(*seed, "port", s.Number, n)
			config.ExtraConfig = append(config.ExtraConfig,
				&types.OptionValue{Key: fmt.Sprintf("nvp.iface-id.%d", n), Value: port})
			if s.Number%4 == 0 {
				external = port
			}
		}
		network := simulator.Map.Get(networks[(s.Number+n)%len(networks)])
		if _, isPortgroup := network.(*simulator.DistributedVirtualPortgroup); !isPortgroup {
			network = simulator.Map.Get(plainNetwork(networks))
		}
		machine.Network = append(machine.Network, network.Reference())
		devices = append(devices, newNIC(s.Number, n, network, external))
	}
	config.Hardware.Device = devices
	machine.Config, machine.LayoutEx = config, layout
	machine.Layout = &types.VirtualMachineFileLayout{}
	machine.Storage = &types.VirtualMachineStorageInfo{Timestamp: moment(now)}
	machine.Guest = &types.GuestInfo{}
	machine.Runtime.Host = &hs.Self
	machine.Runtime.ConnectionState = types.VirtualMachineConnectionStateConnected
	machine.Runtime.PowerState = state

	v := &vm{
		name: name, host: hs.Self.Value, state: state, kib: int64(s.MiB) * 1024, block: s.Block,
		boot: now - float64(7200+60*(s.Number%30)+s.Number%20),
	}
	if fresh {
		v.boot = now
	}
	v.since = v.boot
	for _, i := range instancesOf(&machine.VirtualMachine) {
		v.instances = append(v.instances, instance{i[0], i[1], span{since: v.boot}})
	}
	switch state {
	case types.VirtualMachinePowerStatePoweredOn:
		boot := moment(v.boot)
		machine.Runtime.BootTime = &boot
	case types.VirtualMachinePowerStateSuspended:
		v.pause = now - 600
	}
	machine.Summary = types.VirtualMachineSummary{
		Vm:      &machine.Self,
		Runtime: machine.Runtime,
		Guest:   &types.VirtualMachineGuestSummary{},
		Config: types.VirtualMachineConfigSummary{
			Name: name, Template: template, VmPathName: config.Files.VmPathName, MemorySizeMB: s.MiB, NumCpu: s.CPUs,
			Uuid: config.Uuid, InstanceUuid: config.InstanceUuid, GuestId: config.GuestId, Annotation: config.Annotation,
			NumEthernetCards: int32(s.NICs), NumVirtualDisks: int32(s.Disks),
		},
		Storage:       &types.VirtualMachineStorageSummary{Timestamp: moment(now)},
		OverallStatus: types.ManagedEntityStatusGreen,
	}
	if template {
		machine.ResourcePool = nil
	}

	simulator.Map.NewEntity(machine)
	v.ref = machine.Self.Value
	v.draw = drawer(*seed + "|" + v.ref + "|")
	theWorld.mu.Lock()
	theWorld.vms[v.ref] = v
	theWorld.mu.Unlock()
	simulator.Map.AppendReference(hs, &hs.Vm, machine.Self)
	simulator.Map.AppendReference(pool, &pool.Vm, machine.Self)
	simulator.Map.AppendReference(store, &store.Vm, machine.Self)
	simulator.Map.AppendReference(folder, &folder.ChildEntity, machine.Self)
	simulator.Map.PutEntity(folder, machine)
	return machine
}

func hex(uuid string) string { return strings.ReplaceAll(uuid, "-", "") }

func poolOf(h *simulator.HostSystem) *simulator.ResourcePool {
	var ref *types.ManagedObjectReference
	switch parent := simulator.Map.Get(*h.Parent).(type) {
	case *mo.ComputeResource:
		ref = parent.ResourcePool
	case *simulator.ClusterComputeResource:
		ref = parent.ResourcePool
	}
	return simulator.Map.Get(*ref).(*simulator.ResourcePool)
}

func plainNetwork(networks []types.ManagedObjectReference) types.ManagedObjectReference {
	for _, ref := range networks {
		if ref.Type == "Network" {
			return ref
		}
	}
	return networks[0]
}
