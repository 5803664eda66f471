package sim

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"hearth/store/storetest"
)

var (
	seconds = flag.Int("sim.seconds", 0, "how long TestLong tries new seeds")
	from    = flag.Uint64("sim.from", 1000, "the first seed that TestLong tries")
	seed    = flag.Uint64("sim.seed", 0, "the seed that TestLong runs; 0: many")
	version = flag.String("sim.version", "", "the room version that TestLong runs; empty: all")
	steps   = flag.Int("sim.steps", 800, "how many things happen in a run of TestLong")
	pg      = flag.Bool("sim.postgres", false, "TestLong runs on the PostgreSQL server that HEARTH_TEST_POSTGRES names")
	verbose = flag.Bool("sim.log", false, "tell what happened in failed runs")
)

var versions = []string{"1", "2", "6", "8", "10", "11", "12"}

func simulate(t *testing.T, version string, seed uint64, steps int, postgres bool) {
	t.Run(fmt.Sprintf("version %s, seed %d", version, seed), func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, seed)
		synctest.Test(t, func(t *testing.T) {
			w := New(t, version, seed, 3, postgres)
			if *verbose {
				w.Tell = os.Stdout
			}
			w.Run(steps)
		})
	})
}

func TestServersAgreeInTheEnd(t *testing.T) {
	for i, v := range versions {
		simulate(t, v, uint64(i+1), 400, false)
	}
}

func TestServersOnPostgreSQLAgreeInTheEnd(t *testing.T) {
	storetest.PostgresSchema(t) // or it is skipped
	simulate(t, "12", 1, 400, true)
}

func TestLong(t *testing.T) {
	if *seconds == 0 && *seed == 0 {
		t.Log("nothing to do without -sim.seconds or -sim.seed")
		return
	}
	chosen := versions
	if *version != "" {
		chosen = []string{*version}
	}
	if *seed != 0 {
		for _, v := range chosen {
			simulate(t, v, *seed, *steps, *pg)
		}
		return
	}
	s := *from
	for start := time.Now(); time.Since(start) < time.Duration(*seconds)*time.Second; s++ {
		simulate(t, chosen[s%uint64(len(chosen))], s, *steps, *pg)
	}
	t.Logf("seeds %d to %d were tried", *from, s-1)
}
