package main

import (
	"hash/crc32"
	"strconv"
	"strings"
)

// What a sample is: a pure function of the seed, the VM, the counter, the instance and the time of
// the sample (the end of its 20 s, as the host's clock tells it). truth.py has the same in Python.
//
// Everything comes from draw(what, instance, time) = mix(crc32("seed|vm|what|instance|time")), a
// number of 32 bits; mix is the last step of MurmurHash3. Of each vCPU, in ms:
//
//	run    = draw("run") % 12000         system  = draw("system") % 300
//	ready  = draw("ready") % 2000        overlap = draw("overlap") % 200
//	costop = draw("costop") % 500        blocked = draw("blocked") % 1500
//	wait   = 20000 - run - ready - costop
//	idle   = wait - blocked
//	used   = max(0, run + system - overlap)
//
// An aggregate (the instance "") is the sum over the instances that were there at that time.

const (
	interval = 20                     // seconds from one sample to the next
	memory   = 3600                   // seconds that a host remembers
	mhz      = 2294                   // of each host's cores, as govmomi's inventory says
	missing  = -1                     // a sample that there is not
	uplink   = "vmnic0"               // the host's own NIC, through which all of a VM's traffic goes
	lun      = "naa.6000c29f00000001" // the LUN that holds the disks of VMs on block storage
)

// A span is when something was there: after `since`, up to `until` (0: it still is).
type span struct {
	since, until float64
}

func (s span) has(t float64) bool {
	return s.since < t && (s.until == 0 || t <= s.until)
}

// An instance is a vCPU, a NIC or a disk of a VM, by the name that samples have for it.
type instance struct {
	group, name string
	span
}

// a drawer is a VM's source of numbers.
type drawer string

func (d drawer) draw(what, instance string, t int64) int64 {
	text := make([]byte, 0, 64)
	text = append(text, d...)
	text = append(text, what...)
	text = append(text, '|')
	text = append(text, instance...)
	text = append(text, '|')
	text = strconv.AppendInt(text, t, 10)
	h := crc32.ChecksumIEEE(text)
	h ^= h >> 16
	h *= 0x85ebca6b
	h ^= h >> 13
	h *= 0xc2b2ae35
	h ^= h >> 16
	return int64(h)
}

// The counters that VMs have. Of those that are not additive, "" is all there is.
var (
	cpuCounters = map[string]func(drawer, string, int64) int64{
		"cpu.run.summation":        cpuRun,
		"cpu.ready.summation":      cpuReady,
		"cpu.costop.summation":     cpuCostop,
		"cpu.wait.summation":       cpuWait,
		"cpu.idle.summation":       func(d drawer, i string, t int64) int64 { return cpuWait(d, i, t) - cpuBlocked(d, i, t) },
		"cpu.swapwait.summation":   func(d drawer, i string, t int64) int64 { return cpuBlocked(d, i, t) / 4 },
		"cpu.maxlimited.summation": func(d drawer, i string, t int64) int64 { return cpuReady(d, i, t) / 10 },
		"cpu.system.summation":     cpuSystem,
		"cpu.overlap.summation":    cpuOverlap,
		"cpu.used.summation":       cpuUsed,
		"cpu.usagemhz.average":     func(d drawer, i string, t int64) int64 { return cpuUsed(d, i, t) * mhz / 20000 },
	}
	netCounters = map[string]func(drawer, string, int64) int64{
		"net.received.average":    drawn("received", 5000),
		"net.transmitted.average": drawn("transmitted", 3000),
		"net.usage.average": func(d drawer, i string, t int64) int64 {
			return d.draw("received", i, t)%5000 + d.draw("transmitted", i, t)%3000
		},
		"net.packetsRx.summation": drawn("packetsRx", 200000),
		"net.packetsTx.summation": drawn("packetsTx", 100000),
		"net.droppedRx.summation": seldom("droppedRx", 50),
		"net.droppedTx.summation": seldom("droppedTx", 20),
	}
	diskCounters = map[string]func(drawer, string, int64) int64{
		"read.average":                drawn("read", 20000),
		"write.average":               drawn("write", 8000),
		"numberReadAveraged.average":  drawn("numberRead", 500),
		"numberWriteAveraged.average": drawn("numberWrite", 300),
	}
	virtualDiskCounters = map[string]func(drawer, string, int64) int64{
		"totalReadLatency.average":  drawn("readLatency", 30),
		"totalWriteLatency.average": drawn("writeLatency", 40),
	}
	lunCounters = map[string]func(drawer, string, int64) int64{
		"numberRead.summation":  func(d drawer, i string, t int64) int64 { return d.draw("numberRead", i, t) % 500 * interval },
		"numberWrite.summation": func(d drawer, i string, t int64) int64 { return d.draw("numberWrite", i, t) % 300 * interval },
	}
	memoryCounters = map[string]func(d drawer, t, kib int64) int64{
		"mem.consumed.average": memConsumed,
		"mem.usage.average":    func(d drawer, t, kib int64) int64 { return 10000 * memConsumed(d, t, kib) / kib },
		"mem.shared.average":   memShared,
		"mem.granted.average":  func(d drawer, t, kib int64) int64 { return memConsumed(d, t, kib) + memShared(d, t, kib) },
		"mem.active.average":   func(d drawer, t, kib int64) int64 { return d.draw("active", "", t) % (kib / 4) },
		"mem.overhead.average": func(d drawer, t, _ int64) int64 { return 30000 + d.draw("overhead", "", t)%1000 },
		"mem.vmmemctl.average": func(d drawer, t, kib int64) int64 { return seldom("vmmemctl", kib/8)(d, "", t) },
		"mem.swapin.average":   func(d drawer, t, _ int64) int64 { return d.draw("swapin", "", t) % 4096 },
		"mem.swapout.average":  func(d drawer, t, _ int64) int64 { return d.draw("swapout", "", t) % 4096 },
		"mem.swapped.average":  func(d drawer, t, _ int64) int64 { return d.draw("swapped", "", t) % 4096 },
	}
)

func drawn(what string, below int64) func(drawer, string, int64) int64 {
	return func(d drawer, i string, t int64) int64 { return d.draw(what, i, t) % below }
}

// seldom is other than 0 in one of four samples.
func seldom(what string, below int64) func(drawer, string, int64) int64 {
	return func(d drawer, i string, t int64) int64 {
		h := d.draw(what, i, t)
		if h%4 != 0 {
			return 0
		}
		return h / 4 % below
	}
}

var (
	cpuRun     = drawn("run", 12000)
	cpuReady   = drawn("ready", 2000)
	cpuCostop  = drawn("costop", 500)
	cpuBlocked = drawn("blocked", 1500)
	cpuSystem  = drawn("system", 300)
	cpuOverlap = drawn("overlap", 200)
)

func cpuWait(d drawer, i string, t int64) int64 {
	return 20000 - cpuRun(d, i, t) - cpuReady(d, i, t) - cpuCostop(d, i, t)
}

func cpuUsed(d drawer, i string, t int64) int64 {
	used := cpuRun(d, i, t) + cpuSystem(d, i, t) - cpuOverlap(d, i, t)
	if used < 0 {
		return 0
	}
	return used
}

func memConsumed(d drawer, t, kib int64) int64 {
	return kib/4 + d.draw("consumed", "", t)%(kib/2)
}

func memShared(d drawer, t, kib int64) int64 {
	return d.draw("shared", "", t) % (kib / 4)
}

// additive returns the function of a counter whose aggregate is the sum of its instances, and the
// group of these.
func additive(counter string) (func(drawer, string, int64) int64, string) {
	group := counter[:strings.IndexByte(counter, '.')]
	name := counter[len(group)+1:]
	switch group {
	case "cpu":
		return cpuCounters[counter], group
	case "net":
		return netCounters[counter], group
	case "virtualDisk":
		if f := virtualDiskCounters[name]; f != nil {
			return f, group
		}
		return diskCounters[name], group
	case "disk":
		if f := lunCounters[name]; f != nil {
			return f, "virtualDisk"
		}
		return diskCounters[name], "virtualDisk"
	}
	return nil, ""
}
