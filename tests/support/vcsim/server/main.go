// A simulated vCenter for the tests: govmomi's simulator, whose QueryPerf is replaced by one whose
// samples are known.
//
// Its transport, sessions, inventory, tasks, property collector and faults are govmomi's, that is,
// somebody else's. What this program adds, or does otherwise, is in one file for each idea:
//
//	values.go      what a sample is, as a pure function
//	clock.go       the time, which a test may own
//	world.go       what happened to a VM and a host, as far as samples depend on it
//	inventory.go   the hosts and the VMs at the beginning, and devices.go what these have
//	perf.go        QueryPerf
//	properties.go  the property collector, where govmomi's lacks what vCenter's has
//	front.go       HTTP before the simulator: users, counts, broken answers
//	control.go     what a test does to all that, machines.go to VMs, and telling.go what it is told
//
// It prints one line of JSON when it is ready, and ends when its standard input does.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/ioutil"
	"log"
	"net"
	"net/http"
	"os"
)

var (
	port       = flag.Int("port", 0, "port of the SDK; 0 is any that is free")
	certFile   = flag.String("cert", "", "certificate, in PEM")
	keyFile    = flag.String("key", "", "its key, in PEM")
	password   = flag.String("password", "secret", "password of all users")
	seed       = flag.String("seed", "1", "what makes samples differ between runs")
	startTime  = flag.Float64("now", 0, "time at which the clock stands still, in Unix seconds; 0 is a clock that runs")
	hosts      = flag.Int("hosts", 2, "hosts")
	vms        = flag.Int("vms", 8, "VMs that are on")
	off        = flag.Int("off", 0, "more VMs, which are off")
	suspended  = flag.Int("suspended", 0, "more VMs, which are suspended")
	templates  = flag.Int("templates", 0, "templates")
	novas      = flag.Int("nova", -1, "how many of the first VMs are Nova's; -1 is every other")
	standalone = flag.Bool("esxi", false, "a single ESXi host instead of a vCenter")
)

func main() {
	flag.Parse()
	log.SetOutput(ioutil.Discard) // govmomi logs what a client does wrong
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "vcsim:", err)
		os.Exit(1)
	}
}

func run() error {
	certificate, err := tls.LoadX509KeyPair(*certFile, *keyFile)
	if err != nil {
		return err
	}
	theClock = newClock(*startTime)
	model, err := createInventory()
	if err != nil {
		return err
	}
	defer model.Remove()

	sdk := newFront(model.Service, certificate)
	if err := sdk.listen(*port); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go http.Serve(listener, newControl(sdk))

	ready, _ := json.Marshal(map[string]int{
		"port":    sdk.port,
		"control": listener.Addr().(*net.TCPAddr).Port,
	})
	fmt.Println(string(ready))
	_, _ = io.Copy(ioutil.Discard, os.Stdin)
	sdk.close()
	return nil
}
