// Command suite runs packages of Complement, tries again what failed and did not before, and
// compares the outcome with a baseline: a test that passed there must pass now.
//
//	suite -source DIR -baseline results.tsv -out DIR PACKAGE...
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/go-json-experiment/json"
)

// test names a test or subtest of a package.
type test struct{ pkg, name string }

// outcomes is pass, fail or skip by test.
type outcomes map[test]string

func main() {
	source := flag.String("source", "", "folder of Complement's source")
	baseline := flag.String("baseline", "", "file of what passed before")
	out := flag.String("out", "", "folder for results")
	only := flag.String("run", "", "tests to run, as in go test -run; nothing is compared then")
	update := flag.Bool("update", false, "write the baseline")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *source, *baseline, *out, *only, *update, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "complement:", err)
		stop()
		os.Exit(1)
	}
}

// tries is how often a test that passed before may fail until that counts. Some go by the clock:
// TestJumpToDateEndpoint fails where a whole room is made within one millisecond.
const tries = 4

func run(ctx context.Context, source, baseline, out, only string, update bool, packages []string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(out, "output.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	before, err := read(baseline)
	if err != nil {
		return err
	}
	results := outcomes{}
	for _, pkg := range packages {
		pattern := only
		for try := range tries {
			some, err := goTest(ctx, source, pkg, pattern, try == 0, log)
			if err != nil {
				return err
			}
			maps.Copy(results, some)
			failed := worse(before, results, pkg)
			if only != "" || len(failed) == 0 || try == tries-1 {
				break
			}
			fmt.Printf("%s: trying again %s\n", pkg, strings.Join(failed, " "))
			pattern = "^(" + strings.Join(failed, "|") + ")$"
		}
	}
	if err := write(filepath.Join(out, "results.tsv"), results); err != nil {
		return err
	}
	summarize(results)
	if only != "" {
		return nil
	}
	if update {
		return write(baseline, merged(before, results, packages))
	}
	return compare(before, results, packages)
}

// merged is what was known before, with the results of some packages in the place of theirs.
func merged(before, results outcomes, packages []string) outcomes {
	all := maps.Clone(results)
	for t, status := range before {
		if !slices.Contains(packages, t.pkg) {
			all[t] = status
		}
	}
	return all
}

// goTest runs one package. Servers are shared by its tests, or new for each.
func goTest(ctx context.Context, source, pkg, only string, shared bool, log io.Writer) (outcomes, error) {
	args := []string{"test", "-json", "-count=1", "-timeout=25m"}
	if only != "" {
		args = append(args, "-run", only)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./"+pkg)...)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	if shared {
		cmd.Env = append(cmd.Env, "COMPLEMENT_ENABLE_DIRTY_RUNS=1")
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run %s: %w", pkg, err)
	}
	results, started, err := follow(stdout, pkg, log)
	waitErr := cmd.Wait()
	if _, failed := errors.AsType[*exec.ExitError](waitErr); waitErr != nil && !failed {
		return nil, fmt.Errorf("run %s: %w", pkg, waitErr)
	}
	if err == nil && len(results) == 0 {
		err = fmt.Errorf("%s ran no test; see output.log", pkg)
	}
	// What was cut off by a panic or the time limit has failed.
	for t := range started {
		if results[t] == "" {
			results[t] = "fail"
		}
	}
	return results, err
}

func follow(r io.Reader, pkg string, log io.Writer) (results outcomes, started map[test]bool, err error) {
	results, started = outcomes{}, map[test]bool{}
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return results, started, nil
		}
		if err != nil {
			return results, started, err
		}
		var e struct{ Action, Test, Output string }
		if json.Unmarshal(line, &e) != nil { // the compiler speaks plainly
			e.Action, e.Output = "output", string(line)
		}
		t := test{pkg, e.Test}
		switch e.Action {
		case "output":
			if _, err := io.WriteString(log, e.Output); err != nil {
				return results, started, err
			}
		case "run":
			started[t] = true
		case "pass", "fail", "skip":
			if e.Test == "" {
				continue
			}
			results[t] = e.Action
			if !strings.Contains(e.Test, "/") {
				fmt.Println(e.Action, pkg, e.Test)
			}
		}
	}
}

// worse names the tests of a package that fail, with a subtest maybe, and did not before.
func worse(before, now outcomes, pkg string) (names []string) {
	for t := range merged(now, before, nil) {
		if t.pkg == pkg && before[t] != "fail" && before[t] != "skip" && now[t] != "pass" && now[t] != "skip" {
			name, _, _ := strings.Cut(t.name, "/")
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// compare fails for each test that passed before and does not now.
func compare(before, now outcomes, packages []string) error {
	var worse, better []string
	for t, status := range before {
		if status == "pass" && now[t] != "pass" && slices.Contains(packages, t.pkg) {
			worse = append(worse, t.pkg+" "+t.name)
		}
	}
	for t, status := range now {
		if status == "pass" && before[t] != "pass" {
			better = append(better, t.pkg+" "+t.name)
		}
	}
	slices.Sort(worse)
	slices.Sort(better)
	for _, name := range better {
		fmt.Println("passes now:", name)
	}
	if len(better) > 0 {
		fmt.Println("record it with: test/complement/run --update")
	}
	for _, name := range worse {
		fmt.Println("FAILED, passed before:", name)
	}
	if len(worse) > 0 {
		return fmt.Errorf("%d tests that passed before do not pass", len(worse))
	}
	return nil
}

func summarize(results outcomes) {
	all, top := map[string]int{}, map[string]int{}
	for t, status := range results {
		all[status]++
		if !strings.Contains(t.name, "/") {
			top[status]++
		}
	}
	fmt.Printf("top level: %d passed, %d failed, %d skipped\n", top["pass"], top["fail"], top["skip"])
	fmt.Printf("with subtests: %d passed, %d failed, %d skipped\n", all["pass"], all["fail"], all["skip"])
}

func write(path string, results outcomes) error {
	lines := make([]string, 0, len(results))
	for t, status := range results {
		lines = append(lines, t.pkg+"\t"+t.name+"\t"+status+"\n")
	}
	slices.Sort(lines)
	return os.WriteFile(path, []byte(strings.Join(lines, "")), 0o644)
}

func read(path string) (outcomes, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	results := outcomes{}
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if len(f) != 3 {
			return nil, fmt.Errorf("%s: bad line %q", path, line)
		}
		results[test{f[0], f[1]}] = f[2]
	}
	return results, nil
}
