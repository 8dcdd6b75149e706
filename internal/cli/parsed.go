package cli

import (
	"errors"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/durationpb"
)

// parsed is a flag whose values are read as they are given.
type parsed struct {
	kind string // how the help calls a value
	set  func(string) error
}

func (p *parsed) Set(v string) error { return p.set(v) }
func (p *parsed) String() string     { return "" }
func (p *parsed) Type() string       { return p.kind }

// one is a flag with one value.
func one[T any](f *pflag.FlagSet, name, short, kind, usage string, to *T, parse func(string) (T, error)) {
	f.VarP(&parsed{kind, func(v string) (err error) {
		*to, err = parse(v)
		return err
	}}, name, short, usage)
}

// several is a flag that may be given several times.
func several[T any](f *pflag.FlagSet, name, usage string, to *[]T, parse func(string) (T, error)) {
	f.Var(&parsed{"stringArray", func(v string) error {
		got, err := parse(v)
		if err == nil {
			*to = append(*to, got)
		}
		return err
	}}, name, usage)
}

// span parses a duration that is not negative.
func span(v string) (*durationpb.Duration, error) {
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 || d > 0 && d < time.Millisecond {
		return nil, errors.New("use a duration of 1ms or more, for example 30s or 1m30s")
	}
	return durationpb.New(d), nil
}

// refused is a flag of Docker's that cannot be had here.
func refused(cmd *cobra.Command, name, reason string) {
	cmd.Flags().Var(&parsed{"string", func(string) error { return errors.New(reason) }}, name, reason)
	if err := cmd.Flags().MarkHidden(name); err != nil {
		panic(err) // the flag has just been made
	}
}
