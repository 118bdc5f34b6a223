package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/peterbourgon/ff/v3"
	"github.com/peterbourgon/ff/v3/ffyaml"
	"github.com/spf13/cobra"
)

// configured is a command whose settings come as those of a role do: flags, then
// RATEGUARD_* variables, then a YAML file.
type configured struct {
	use, short string
	register   func(*flag.FlagSet)
	// strict refuses a file with settings that the command does not have. Others share the file
	// of the roles.
	strict bool
	// off names the flags whose empty value switches something off: their variables count when they are set and empty.
	off []string
	// validate returns all problems of the settings, joined; may be nil.
	validate func() error
	run      func(context.Context) error
}

// emptied returns the flags whose variables are set and empty, as arguments: ff takes an empty variable for none. Those
// of the command line come behind them and win.
func emptied(names []string) []string {
	var args []string
	for _, name := range names {
		env := "RATEGUARD_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		if v, set := os.LookupEnv(env); set && v == "" {
			args = append(args, "--"+name+"=")
		}
	}
	return args
}

func (a *app) configured(c configured) *cobra.Command {
	return &cobra.Command{Use: c.use, Short: c.short, DisableFlagParsing: true, RunE: func(cmd *cobra.Command, args []string) error {
		fs := flag.NewFlagSet(cmd.CommandPath(), flag.ContinueOnError)
		fs.SetOutput(a.env.Stderr)
		c.register(fs)
		fs.String("config", "", "YAML file with settings")
		check := fs.Bool("check-config", false, "check the settings and exit")
		err := ff.Parse(fs, append(emptied(c.off), args...), ff.WithEnvVarPrefix("RATEGUARD"), ff.WithConfigFileFlag("config"), ff.WithConfigFileParser(ffyaml.Parser), ff.WithIgnoreUndefined(!c.strict))
		switch {
		case errors.Is(err, flag.ErrHelp):
			return err
		case err != nil:
			return &usageError{err}
		case fs.NArg() > 0:
			return usagef("%s takes no argument %q", cmd.CommandPath(), fs.Arg(0))
		}
		if c.validate != nil {
			if err := c.validate(); err != nil {
				return fmt.Errorf("checking the settings:\n%w", err)
			}
		}
		if *check {
			_, err := fmt.Fprintln(a.env.Stdout, "settings are valid")
			return err
		}
		return c.run(cmd.Context())
	}}
}
