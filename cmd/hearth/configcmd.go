package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"hearth/config"
)

func configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check and explain the configuration"}
	cmd.AddCommand(configCheckCommand(), configDescribeCommand())
	return cmd
}

func configCheckCommand() *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use:   "check --config FILE",
		Short: "Say whether a server could start with these files",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, warnings, err := config.Load(files...)
			for _, w := range warnings {
				fmt.Fprintln(cmd.OutOrStdout(), "warning:", w)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "the configuration of %s is good\n", cfg.ServerName)
			return err
		},
	}
	cmd.Flags().StringArrayVarP(&files, "config", "c", []string{"homeserver.yaml"}, "configuration file or folder; may be repeated")
	return cmd
}

func configDescribeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "describe [KEY]",
		Short: "Explain one key of the configuration, or all",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key := ""
			if len(args) == 1 {
				key = args[0]
			}
			text, ok := config.Describe(key)
			if !ok {
				return fmt.Errorf("there is no key %s", key)
			}
			_, err := fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
}
