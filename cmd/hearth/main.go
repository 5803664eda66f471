// Command hearth is a Matrix homeserver: one binary with its tools as
// subcommands. This package wires all others together and is imported by none;
// it owns the process: configuration, listeners, background loops, signals.
//
// Start at run in serve.go.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is that of the release being worked on.
const version = "0.1.0"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(filepath.Base(os.Args[0])).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "hearth:", err)
		stop()
		os.Exit(1)
	}
}

// command is what the program does by the name that it was called with.
func command(name string) *cobra.Command {
	if strings.HasPrefix(name, "register_new_matrix_user") {
		return registerCommand("register_new_matrix_user")
	}
	root := &cobra.Command{
		Use:           "hearth",
		Short:         "A Matrix homeserver",
		Version:       longVersion(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(serveCommand(), localserveCommand(), configCommand(), registerCommand("register-new-matrix-user"),
		healthcheckCommand(), versionCommand())
	return root
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "hearth", longVersion())
			return err
		},
	}
}

// longVersion adds the commit that was built, where Go recorded it.
func longVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) > 12 {
			return version + " (" + s.Value[:12] + ")"
		}
	}
	return version
}
