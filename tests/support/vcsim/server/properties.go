package main

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// properties is govmomi's property collector, with what it lacks of vCenter's:
//
//   - pages, by maxObjects or a limit of the server's own, each with a token that is good once;
//   - without a session, NotAuthenticated;
//   - a property that a type does not have is a fault of the whole call;
//   - config.extraConfig["key"];
//   - a user without rights sees no VM and no host;
//   - the configuration of a VM may be hidden.
//
// Each session has one of its own, made from the zero value.
type properties struct {
	simulator.PropertyCollector

	mu    sync.Mutex
	pages map[string][]types.ObjectContent
	size  int
}

var (
	pageLimit int64 // objects; 0 is none
	tokens    int64
)

func installProperties() {
	manager := &properties{}
	manager.Self = theContent().PropertyCollector
	simulator.Map.Put(manager)
}

func notAuthenticated(ref types.ManagedObjectReference) *soap.Fault {
	return simulator.Fault("The session is not authenticated.", &types.NotAuthenticated{
		NoPermission: types.NoPermission{Object: ref, PrivilegeId: "System.View"},
	})
}

// RetrievePropertiesEx returns the first page.
func (p *properties) RetrievePropertiesEx(ctx *simulator.Context, req *types.RetrievePropertiesEx) soap.HasFault {
	body := &methods.RetrievePropertiesExBody{}
	objects, fault := p.retrieve(ctx, req.SpecSet)
	if fault != nil {
		body.Fault_ = fault
		return body
	}
	size := int(req.Options.MaxObjects)
	if limit := int(atomic.LoadInt64(&pageLimit)); limit > 0 && (size <= 0 || limit < size) {
		size = limit
	}
	body.Res = &types.RetrievePropertiesExResponse{}
	if len(objects) > 0 {
		body.Res.Returnval = p.page(objects, size)
	}
	return body
}

// ContinueRetrievePropertiesEx returns the next one.
func (p *properties) ContinueRetrievePropertiesEx(ctx *simulator.Context, req *types.ContinueRetrievePropertiesEx) soap.HasFault {
	body := &methods.ContinueRetrievePropertiesExBody{}
	p.mu.Lock()
	objects, ok := p.pages[req.Token]
	delete(p.pages, req.Token)
	size := p.size
	p.mu.Unlock()
	if !ok {
		body.Fault_ = invalid("token")
		return body
	}
	body.Res = &types.ContinueRetrievePropertiesExResponse{Returnval: *p.page(objects, size)}
	return body
}

// CancelRetrievePropertiesEx forgets what was not asked for.
func (p *properties) CancelRetrievePropertiesEx(ctx *simulator.Context, req *types.CancelRetrievePropertiesEx) soap.HasFault {
	body := &methods.CancelRetrievePropertiesExBody{}
	p.mu.Lock()
	_, ok := p.pages[req.Token]
	delete(p.pages, req.Token)
	p.mu.Unlock()
	if !ok {
		body.Fault_ = invalid("token")
		return body
	}
	body.Res = &types.CancelRetrievePropertiesExResponse{}
	return body
}

// RetrieveProperties is the old call, which knows no pages.
func (p *properties) RetrieveProperties(ctx *simulator.Context, req *types.RetrieveProperties) soap.HasFault {
	body := &methods.RetrievePropertiesBody{}
	objects, fault := p.retrieve(ctx, req.SpecSet)
	if fault != nil {
		body.Fault_ = fault
		return body
	}
	body.Res = &types.RetrievePropertiesResponse{Returnval: objects}
	return body
}

func (p *properties) page(objects []types.ObjectContent, size int) *types.RetrieveResult {
	if size <= 0 || len(objects) <= size {
		return &types.RetrieveResult{Objects: objects}
	}
	token := fmt.Sprint(atomic.AddInt64(&tokens, 1))
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pages == nil {
		p.pages = map[string][]types.ObjectContent{}
	}
	p.pages[token], p.size = objects[size:], size
	return &types.RetrieveResult{Token: token, Objects: objects[:size]}
}

func (p *properties) retrieve(ctx *simulator.Context, specs []types.PropertyFilterSpec) ([]types.ObjectContent, *soap.Fault) {
	if ctx.Session == nil {
		return nil, notAuthenticated(p.Self)
	}
	specs, options := withoutOptions(specs)
	answer := p.PropertyCollector.RetrievePropertiesEx(ctx, &types.RetrievePropertiesEx{This: p.Self, SpecSet: specs})
	if fault := answer.Fault(); fault != nil {
		return nil, fault
	}
	var kept []types.ObjectContent
	for _, object := range answer.(*methods.RetrievePropertiesExBody).Res.Returnval.Objects {
		if blind(ctx) && (object.Obj.Type == "VirtualMachine" || object.Obj.Type == "HostSystem") {
			continue
		}
		if blind(ctx) && object.Obj.Type == "ContainerView" {
			hide(object.PropSet)
		}
		for _, missing := range object.MissingSet {
			if name, ok := missing.Fault.Fault.(*types.InvalidProperty); ok {
				return nil, simulator.Fault("", name)
			}
		}
		if isHidden(object.Obj) {
			object.PropSet = withoutConfig(object.PropSet)
		}
		for _, option := range options {
			if value := extra(object.Obj, option); value != nil {
				object.PropSet = append(object.PropSet, types.DynamicProperty{Name: option, Val: value})
			}
		}
		kept = append(kept, object)
	}
	return kept, nil
}

func isHidden(ref types.ManagedObjectReference) bool {
	theWorld.mu.RLock()
	defer theWorld.mu.RUnlock()
	v := theWorld.vms[ref.Value]
	return v != nil && v.hidden
}

func withoutConfig(properties []types.DynamicProperty) (kept []types.DynamicProperty) {
	for _, property := range properties {
		if !strings.HasPrefix(property.Name, "config") {
			kept = append(kept, property)
		}
	}
	return kept
}

// hide empties what a view has in it.
func hide(properties []types.DynamicProperty) {
	for n := range properties {
		if properties[n].Name == "view" {
			properties[n].Val = &types.ArrayOfManagedObjectReference{}
		}
	}
}

const optionPath = `config.extraConfig["`

// withoutOptions takes the paths of single options of a VM out of what govmomi is asked.
func withoutOptions(specs []types.PropertyFilterSpec) ([]types.PropertyFilterSpec, []string) {
	var options []string
	plain := make([]types.PropertyFilterSpec, len(specs))
	for n, spec := range specs {
		plain[n] = spec
		plain[n].PropSet = make([]types.PropertySpec, len(spec.PropSet))
		for m, set := range spec.PropSet {
			plain[n].PropSet[m] = set
			plain[n].PropSet[m].PathSet = nil
			for _, path := range set.PathSet {
				if strings.HasPrefix(path, optionPath) {
					options = append(options, path)
				} else {
					plain[n].PropSet[m].PathSet = append(plain[n].PropSet[m].PathSet, path)
				}
			}
		}
	}
	return plain, options
}

// extra returns the value at config.extraConfig["key"] or config.extraConfig["key"].value.
func extra(ref types.ManagedObjectReference, path string) types.AnyType {
	machine, ok := simulator.Map.Get(ref).(*simulator.VirtualMachine)
	if !ok {
		return nil
	}
	end := strings.LastIndex(path, `"]`)
	if end < len(optionPath) {
		return nil
	}
	key, rest := path[len(optionPath):end], path[end+2:]
	var found types.AnyType
	simulator.Map.WithLock(machine, func() {
		for _, option := range machine.Config.ExtraConfig {
			if value := option.GetOptionValue(); value.Key == key {
				found = types.AnyType(*value)
				if rest == ".value" {
					found = value.Value
				}
			}
		}
	})
	return found
}
