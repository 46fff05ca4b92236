package main

import (
	"sync"
	"time"
)

// theClock is the time of the vCenter and, but for their faults, of its hosts.
var theClock *clock

// clock runs, or stands still until a test steps it.
type clock struct {
	mu     sync.Mutex
	frozen bool
	at     float64
}

func newClock(at float64) *clock {
	return &clock{frozen: at != 0, at: at}
}

// now is the time in Unix seconds.
func (c *clock) now() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frozen {
		return c.at
	}
	return float64(time.Now().UnixNano()) / 1e9
}

func (c *clock) set(at float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen, c.at = true, at
}

func moment(seconds float64) time.Time {
	whole := int64(seconds)
	return time.Unix(whole, int64((seconds-float64(whole))*1e9)).UTC()
}

func seconds(t time.Time) float64 {
	return float64(t.Unix()) + float64(t.Nanosecond())/1e9
}
