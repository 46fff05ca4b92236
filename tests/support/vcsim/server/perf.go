package main

import (
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// perf is a PerformanceManager as vCenter's is:
//
//   - samples lie on a grid of 20 s and come oldest first; startTime is excluded, endTime included;
//   - a host remembers an hour, from the power-on or the arrival of a VM on;
//   - `*` becomes the instances that there are, among them the aggregate and the host's own NIC;
//   - nothing is told of a VM that is off, and a deleted one is a fault;
//   - a call that is too large is refused.
type perf struct {
	simulator.PerformanceManager
}

// Lock and Unlock keep the simulator from letting only one call in at a time.
func (p *perf) Lock()   {}
func (p *perf) Unlock() {}

// What a test may set.
type perfSettings struct {
	Metrics       int   `json:"metrics"`        // of a call: else RestrictedByAdministrator
	Entities      int   `json:"entities"`       // of a call: else RestrictedByAdministrator
	Elements      int   `json:"elements"`       // of a call's XML: else a fault of the parser
	OmitDeleted   bool  `json:"omit_deleted"`   // a deleted VM is left out, and no fault
	TellOff       bool  `json:"tell_off"`       // a VM that is off comes without samples
	DiskAggregate bool  `json:"disk_aggregate"` // virtualDisk.* has an aggregate
	NewestFirst   bool  `json:"newest_first"`   // against the order of the real ones
	CounterOffset int32 `json:"counter_offset"` // added to the ids of all counters
}

var (
	perfMutex    sync.Mutex
	perfSet      perfSettings
	perfQueries  []perfQuery      // since a test had them forgotten
	counterNames map[int32]string // of this vCenter, without the offset
	perfCounters []types.PerfCounterInfo
)

func settings() perfSettings {
	perfMutex.Lock()
	defer perfMutex.Unlock()
	return perfSet
}

func installPerf() {
	ref := simulator.Map.Get(theContent().PerfManager.Reference())
	manager := &perf{*ref.(*simulator.PerformanceManager)}
	perfCounters = manager.PerfCounter
	counterNames = map[int32]string{}
	for _, c := range perfCounters {
		counterNames[c.Key] = c.GroupInfo.GetElementDescription().Key + "." +
			c.NameInfo.GetElementDescription().Key + "." + string(c.RollupType)
	}
	simulator.Map.Put(manager)
}

func theContent() types.ServiceContent {
	ref := types.ManagedObjectReference{Type: "ServiceInstance", Value: "ServiceInstance"}
	return simulator.Map.Get(ref).(*simulator.ServiceInstance).Content
}

// renumberCounters has all counters have other ids, as those of another vCenter.
func renumberCounters(offset int32) {
	manager := simulator.Map.Get(theContent().PerfManager.Reference()).(*perf)
	shifted := make([]types.PerfCounterInfo, len(perfCounters))
	for n, c := range perfCounters {
		c.Key += offset
		shifted[n] = c
	}
	manager.PerfCounter = shifted
}

func invalid(property string) *soap.Fault {
	return simulator.Fault("A specified parameter was not correct: "+property, &types.InvalidArgument{InvalidProperty: property})
}

// QueryPerf answers from the pure functions of values.go.
func (p *perf) QueryPerf(ctx *simulator.Context, req *types.QueryPerf) soap.HasFault {
	set := settings()
	body := &methods.QueryPerfBody{}
	note(req)
	if fault := tooLarge(&set, req); fault != nil {
		body.Fault_ = fault
		return body
	}
	hang(req)
	response := &types.QueryPerfResponse{}
	for n := range req.QuerySpec {
		spec := &req.QuerySpec[n]
		if fault := wrong(&set, ctx, spec); fault != nil {
			body.Fault_ = fault
			return body
		}
		answer, fault := query(&set, spec)
		if fault != nil {
			body.Fault_ = fault
			return body
		}
		if answer != nil {
			response.Returnval = append(response.Returnval, answer)
		}
	}
	body.Res = response
	return body
}

// A perfQuery is what was asked in a QueryPerf.
type perfQuery struct {
	Entities  int      `json:"entities"`
	Metrics   int      `json:"metrics"`
	MaxSample int32    `json:"max_sample"` // the largest of its entities
	Hosts     []string `json:"hosts"`      // of its VMs
}

func note(req *types.QueryPerf) {
	asked := perfQuery{Entities: len(req.QuerySpec), Hosts: []string{}}
	seen := map[string]bool{}
	theWorld.mu.RLock()
	for _, spec := range req.QuerySpec {
		asked.Metrics += len(spec.MetricId)
		if spec.MaxSample > asked.MaxSample {
			asked.MaxSample = spec.MaxSample
		}
		if v := theWorld.vms[spec.Entity.Value]; v != nil && !seen[v.host] {
			seen[v.host] = true
			asked.Hosts = append(asked.Hosts, v.host)
		}
	}
	theWorld.mu.RUnlock()
	perfMutex.Lock()
	defer perfMutex.Unlock()
	if len(perfQueries) < 100000 {
		perfQueries = append(perfQueries, asked)
	}
}

func tooLarge(set *perfSettings, req *types.QueryPerf) *soap.Fault {
	metrics := 0
	for _, spec := range req.QuerySpec {
		metrics += len(spec.MetricId)
	}
	if set.Metrics > 0 && metrics > set.Metrics || set.Entities > 0 && len(req.QuerySpec) > set.Entities {
		return simulator.Fault("This operation is restricted by the administrator - 'vpxd.stats.maxQueryMetrics'. "+
			"Contact your system administrator.",
			&types.RestrictedByAdministrator{Details: "'vpxd.stats.maxQueryMetrics'"})
	}
	return nil
}

// hang waits as long as the sickest host that has a part in the call, or until it is healed.
func hang(req *types.QueryPerf) {
	began := time.Now()
	for {
		wait := 0.0
		theWorld.mu.RLock()
		for _, spec := range req.QuerySpec {
			if v := theWorld.vms[spec.Entity.Value]; v != nil {
				wait = math.Max(wait, theWorld.hosts[v.host].sick)
			}
		}
		theWorld.mu.RUnlock()
		if time.Since(began).Seconds() >= wait {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func wrong(set *perfSettings, ctx *simulator.Context, spec *types.PerfQuerySpec) *soap.Fault {
	if simulator.Map.Get(spec.Entity) == nil {
		if set.OmitDeleted {
			return nil
		}
		return simulator.Fault("The object '"+"vim."+spec.Entity.Type+":"+spec.Entity.Value+
			"' has already been deleted or has not been completely created", &types.ManagedObjectNotFound{Obj: spec.Entity})
	}
	theWorld.mu.RLock()
	v := theWorld.vms[spec.Entity.Value]
	forbidden := v != nil && v.forbidden
	theWorld.mu.RUnlock()
	if forbidden || blind(ctx) {
		return simulator.Fault("Permission to perform this operation was denied.",
			&types.NoPermission{Object: spec.Entity, PrivilegeId: "System.View"})
	}
	switch spec.IntervalId {
	case interval, 300, 1800, 7200, 86400:
	default:
		return invalid("querySpec.interval")
	}
	switch spec.Format {
	case "", string(types.PerfFormatNormal), string(types.PerfFormatCsv):
	default:
		return invalid("querySpec.format")
	}
	for _, id := range spec.MetricId {
		if counterNames[id.CounterId-set.CounterOffset] == "" {
			return invalid("querySpec.metricId")
		}
	}
	return nil
}

func query(set *perfSettings, spec *types.PerfQuerySpec) (types.BasePerfEntityMetricBase, *soap.Fault) {
	theWorld.mu.RLock()
	defer theWorld.mu.RUnlock()
	now := theClock.now()
	v := theWorld.vms[spec.Entity.Value]
	if v == nil {
		return nil, nil
	}
	var times []int64
	if spec.IntervalId == interval {
		times = v.times(now, spec)
		if set.NewestFirst {
			for a, b := 0, len(times)-1; a < b; a, b = a+1, b-1 {
				times[a], times[b] = times[b], times[a]
			}
		}
	}
	if len(times) == 0 && !set.TellOff {
		return nil, nil
	}
	var all []series
	if len(times) > 0 {
		for _, id := range v.metrics(set, spec.MetricId) {
			all = append(all, series{id, v.values(counterNames[id.CounterId-set.CounterOffset], id.Instance, times, now)})
		}
	}
	base := types.PerfEntityMetricBase{Entity: spec.Entity}
	if spec.Format == string(types.PerfFormatCsv) {
		return csv(base, times, all), nil
	}
	return normal(base, times, all), nil
}

// times returns the times of the samples that a call may have, by the clock of the VM's host.
func (v *vm) times(now float64, spec *types.PerfQuerySpec) []int64 {
	h := theWorld.hosts[v.host]
	if v.state != types.VirtualMachinePowerStatePoweredOn || h.lost {
		return nil
	}
	there := now + h.clock
	after := math.Max(there-memory, v.since+h.clock)
	newest := there - v.late
	if spec.StartTime != nil {
		after = math.Max(after, seconds(*spec.StartTime))
	}
	if spec.EndTime != nil {
		newest = math.Min(newest, seconds(*spec.EndTime))
	}
	last := int64(math.Floor(newest/interval)) * interval
	var times []int64
	for t := int64(math.Floor(after/interval))*interval + interval; t <= last; t += interval {
		if !v.gap(t, now) {
			times = append(times, t)
		}
	}
	if n := int(spec.MaxSample); n > 0 && len(times) > n {
		times = times[len(times)-n:]
	}
	return times
}

func (v *vm) gap(t int64, now float64) bool {
	for _, g := range v.gaps {
		if g.applies("", "", t, now) {
			return true
		}
	}
	return false
}

func (v *vm) isSilent(counter, name string) bool {
	for _, s := range v.silent {
		if s.applies(counter, name, 0, theClock.now()) {
			return true
		}
	}
	return false
}

// metrics returns the series that a VM has of those that are wanted.
func (v *vm) metrics(set *perfSettings, wanted []types.PerfMetricId) []types.PerfMetricId {
	if len(wanted) == 0 {
		for _, c := range perfCounters {
			wanted = append(wanted, types.PerfMetricId{CounterId: c.Key + set.CounterOffset, Instance: "*"})
		}
	}
	var found []types.PerfMetricId
	for _, id := range wanted {
		counter := counterNames[id.CounterId-set.CounterOffset]
		for _, name := range v.names(set, counter) {
			if (id.Instance == "*" || id.Instance == name) && !v.isSilent(counter, name) {
				found = append(found, types.PerfMetricId{CounterId: id.CounterId, Instance: name})
			}
		}
	}
	return found
}

// names returns the instances that a VM has now of a counter.
func (v *vm) names(set *perfSettings, counter string) []string {
	if memoryCounters[counter] != nil || counter == "sys.uptime.latest" || counter == "cpu.usage.average" {
		return []string{""}
	}
	f, group := additive(counter)
	if f == nil {
		return nil
	}
	if strings.HasPrefix(counter, "disk.") {
		if !v.block {
			return nil
		}
		return []string{"", lun}
	}
	var found []string
	if group != "virtualDisk" || set.DiskAggregate {
		found = append(found, "")
	}
	for _, i := range v.instances {
		if i.group == group && i.until == 0 {
			found = append(found, i.name)
		}
	}
	if group == "net" {
		found = append(found, uplink)
	}
	return found
}

// values returns what is told of a counter at some times.
func (v *vm) values(counter, name string, times []int64, now float64) []int64 {
	told := make([]int64, len(times))
	ahead := theWorld.hosts[v.host].clock
	for n, t := range times {
		told[n] = v.value(counter, name, t, ahead)
		for _, r := range v.rules {
			if r.applies(counter, name, t, now) {
				told[n] = r.Value
			}
		}
	}
	if v.short {
		told = told[:len(told)-1]
	}
	return told
}

// value is the true one. The clock of the host is `ahead` of what the times of instances are by.
func (v *vm) value(counter, name string, t int64, ahead float64) int64 {
	if counter == "sys.uptime.latest" {
		return int64(float64(t) - ahead - v.boot)
	}
	if f := memoryCounters[counter]; f != nil {
		return f(v.draw, t, v.kib)
	}
	if counter == "cpu.usage.average" {
		used, cpus := v.sum(cpuUsed, "cpu", t, ahead)
		if cpus == 0 {
			return missing
		}
		return 10000 * used / (20000 * cpus)
	}
	f, group := additive(counter)
	if name == "" || name == uplink || name == lun {
		sum, _ := v.sum(f, group, t, ahead)
		return sum
	}
	for _, i := range v.instances {
		if i.group == group && i.name == name && i.has(float64(t)-ahead) {
			return f(v.draw, name, t)
		}
	}
	return missing
}

func (v *vm) sum(f func(drawer, string, int64) int64, group string, t int64, ahead float64) (sum, count int64) {
	for _, i := range v.instances {
		if i.group == group && i.has(float64(t)-ahead) {
			sum += f(v.draw, i.name, t)
			count++
		}
	}
	return sum, count
}

// PerfMetricIntSeries has the name of govmomi's type, which drops each value that is 0.
type PerfMetricIntSeries struct {
	types.PerfMetricSeries
	Value []int64 `xml:"value"`
}

type series struct {
	id     types.PerfMetricId
	values []int64
}

func normal(base types.PerfEntityMetricBase, times []int64, all []series) *types.PerfEntityMetric {
	answer := &types.PerfEntityMetric{PerfEntityMetricBase: base}
	for _, t := range times {
		answer.SampleInfo = append(answer.SampleInfo, types.PerfSampleInfo{Timestamp: moment(float64(t)), Interval: interval})
	}
	for _, s := range all {
		answer.Value = append(answer.Value, &PerfMetricIntSeries{
			PerfMetricSeries: types.PerfMetricSeries{Id: s.id}, Value: s.values,
		})
	}
	return answer
}

func csv(base types.PerfEntityMetricBase, times []int64, all []series) *types.PerfEntityMetricCSV {
	info := make([]string, 0, len(times))
	for _, t := range times {
		info = append(info, strconv.Itoa(interval)+","+moment(float64(t)).Format("2006-01-02T15:04:05Z"))
	}
	answer := &types.PerfEntityMetricCSV{PerfEntityMetricBase: base, SampleInfoCSV: strings.Join(info, ",")}
	var text []byte
	for _, s := range all {
		text = text[:0]
		for n, value := range s.values {
			if n > 0 {
				text = append(text, ',')
			}
			text = strconv.AppendInt(text, value, 10)
		}
		answer.Value = append(answer.Value, types.PerfMetricSeriesCSV{
			PerfMetricSeries: types.PerfMetricSeries{Id: s.id}, Value: string(text),
		})
	}
	return answer
}

// QueryAvailablePerfMetric tells the series that a VM has; govmomi's panics if there is no such VM.
func (p *perf) QueryAvailablePerfMetric(ctx *simulator.Context, req *types.QueryAvailablePerfMetric) soap.HasFault {
	set := settings()
	set.OmitDeleted = false
	body := &methods.QueryAvailablePerfMetricBody{}
	if fault := wrong(&set, ctx, &types.PerfQuerySpec{Entity: req.Entity, IntervalId: interval}); fault != nil {
		body.Fault_ = fault
		return body
	}
	theWorld.mu.RLock()
	defer theWorld.mu.RUnlock()
	body.Res = &types.QueryAvailablePerfMetricResponse{}
	if v := theWorld.vms[req.Entity.Value]; v != nil && v.state == types.VirtualMachinePowerStatePoweredOn {
		body.Res.Returnval = v.metrics(&set, nil)
	}
	return body
}
