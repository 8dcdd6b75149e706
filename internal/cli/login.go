package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/vethloom/vethloom/api/client"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cli/credential"
	"github.com/vethloom/vethloom/internal/cli/session"
	"github.com/vethloom/vethloom/internal/cli/show"
	"golang.org/x/term"
)

// maxPassword bounds a password or a token on standard input, in bytes.
const maxPassword = 64 << 10

func (a images) loginCommand() *cobra.Command {
	var user, password string
	var fromInput bool
	cmd := &cobra.Command{
		Use: "login [flags] [REGISTRY]", Short: "Log in to a registry", Args: cobra.MaximumNArgs(1),
		GroupID:           groupThings,
		ValidArgsFunction: cobra.NoFileCompletions,
		Long: `Ask a registry (Docker Hub without a name) whether a user and a password are right, and keep them as
Docker does: by the helper that its config.json names, else in that file, which everybody who reads it can use.`,
		Example: "  net login example.org:5000\n  net login -u robot --password-stdin ghcr.io < token",
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("password") {
				return errors.New("login: a password on the command line can be seen by everybody on this host, and " +
					"stays in the shell's history: type it when asked, or give it by --password-stdin")
			}
			host, err := credential.Host(strings.Join(args, ""))
			if err != nil {
				return fmt.Errorf("login: %w", err)
			}
			have, err := a.askCredential(cmd.Context(), host, user, fromInput)
			if err != nil {
				return fmt.Errorf("login: %w", err)
			}
			return a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
				return a.login(ctx, c, host, have)
			})(cmd, nil)
		},
	}
	cmd.Flags().StringVarP(&user, "username", "u", "", "name of the user")
	cmd.Flags().BoolVar(&fromInput, "password-stdin", false, "read the password, or a token, from standard input")
	cmd.Flags().StringVarP(&password, "password", "p", "", "refused")
	show.Must(cmd.Flags().MarkHidden("password"))
	return cmd
}

// askCredential takes what the flags do not say from standard input.
func (a images) askCredential(ctx context.Context, host, user string, fromInput bool) (c credential.Credential,
	err error) {
	c.Username = user
	if fromInput {
		if user == "" {
			return c, errors.New("--password-stdin needs the user's name: give --username")
		}
		b, err := io.ReadAll(io.LimitReader(a.In, maxPassword+1))
		if err != nil {
			return c, fmt.Errorf("read the password: %w", err)
		}
		if len(b) > maxPassword {
			return c, fmt.Errorf("the password has more than %d bytes", maxPassword)
		}
		c.Password = strings.TrimRight(string(b), "\r\n")
		return c, checkCredential(c)
	}
	fd, ok := session.Terminal(a.In)
	if !ok {
		return c, errors.New("standard input is no terminal to ask at: give --username and --password-stdin")
	}
	if c.Username == "" {
		show.Printf(a.Err, "Username for %s: ", host)
		// The line alone: what is typed after it is the password.
		line, err := bufio.NewReaderSize(oneByte{a.In}, 1).ReadString('\n')
		if err != nil {
			return c, fmt.Errorf("read the user's name: %w", err)
		}
		c.Username = strings.TrimSpace(line)
	}
	show.Printf(a.Err, "Password: ")
	c.Password, err = readPassword(ctx, fd)
	show.Printf(a.Err, "\n")
	if err != nil {
		return c, err
	}
	return c, checkCredential(c)
}

func checkCredential(c credential.Credential) error {
	switch {
	case c.Username == "":
		return errors.New("the user's name is empty")
	case strings.Contains(c.Username, ":"):
		return errors.New("the user's name has a colon, which no registry can tell from the password's")
	case c.Password == "":
		return errors.New("the password is empty")
	}
	return nil
}

// oneByte reads no further than it must.
type oneByte struct{ io.Reader }

// Read implements [io.Reader].
func (r oneByte) Read(b []byte) (int, error) { return r.Reader.Read(b[:min(1, len(b))]) }

// readPassword reads a line that is not shown. Whatever ends it, the terminal shows again what is typed.
func readPassword(ctx context.Context, fd int) (string, error) {
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	type answer struct {
		text []byte
		err  error
	}
	read := make(chan answer, 1)
	go func() { // ends with the line; after a signal, with the process
		text, err := term.ReadPassword(fd)
		read <- answer{text, err}
	}()
	select {
	case got := <-read:
		if got.err != nil {
			return "", fmt.Errorf("read the password: %w", got.err)
		}
		return string(got.text), nil
	case <-ctx.Done():
		return "", errors.Join(errors.New("interrupted: nothing was changed"), term.Restore(fd, before))
	}
}

func (a images) login(ctx context.Context, c *client.Client, host string, have credential.Credential) error {
	_, err := c.Images.Login(ctx, &apiv1.LoginRequest{Credential: &apiv1.RegistryCredential{Host: host,
		Username: have.Username, Password: have.Password}})
	if err != nil {
		return about("login to", host, err)
	}
	kept, err := a.keyring().Store(ctx, host, have)
	if err != nil {
		return fmt.Errorf("%s takes the login, and it could not be kept: %w", host, err)
	}
	if kept.Helper != "" {
		show.Printf(a.Err, "The password is kept by %s.\n", kept.Helper)
	} else {
		show.Printf(a.Err, "The password is kept in %s, where everybody who can read the file has it: a helper "+
			"keeps it better (credsStore in that file).\n", kept.File)
	}
	return show.Println(a.Out, "Login succeeded: "+host)
}

func (a images) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use: "logout [REGISTRY]", Short: "Forget the login to a registry", Args: cobra.MaximumNArgs(1),
		GroupID: groupThings, ValidArgsFunction: cobra.NoFileCompletions,
		Long:    "Remove what Docker's config.json and its helper have for a registry (Docker Hub without a name).",
		Example: "  net logout example.org:5000",
		RunE: func(cmd *cobra.Command, args []string) error {
			host, err := credential.Host(strings.Join(args, ""))
			if err != nil {
				return fmt.Errorf("logout: %w", err)
			}
			had, err := a.keyring().Erase(cmd.Context(), host)
			if err != nil {
				return fmt.Errorf("logout: %w", err)
			}
			for _, path := range a.keyring().Elsewhere(host) {
				show.Printf(a.Err, "net: warning: Podman has a login to %s in %s, which is used: remove it with "+
					"'podman logout %s'\n", host, path, host)
			}
			if !had {
				return show.Println(a.Out, "Not logged in to "+host)
			}
			return show.Println(a.Out, "Removed the login to "+host)
		},
	}
}
