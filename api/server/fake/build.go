package fake

import (
	"context"
	"errors"
	"io"

	"github.com/vethloom/vethloom/api/server"
)

// LastBuild is the latest build that was asked for.
func (d *imagePart) LastBuild() server.BuildRequest {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.build
}

// BuildImage implements [server.Builds]. What comes out is an image that there is, but of a target "bad", which fails.
func (d *imagePart) BuildImage(ctx context.Context, r server.BuildRequest, tar io.Reader, progress io.Writer) (string,
	error) {
	if err := d.enter("BuildImage"); err != nil {
		return "", err
	}
	d.build = r
	id := d.images[0].ID
	d.mu.Unlock()
	if _, err := io.Copy(io.Discard, tar); err != nil {
		return "", err
	}
	if _, err := io.WriteString(progress, "#1 [1/1] FROM base\n"); err != nil {
		return "", err
	}
	switch r.Target {
	case "bad":
		return "", errors.New("the build failed: exit status 1")
	case "slow":
		<-ctx.Done()
		return "", ctx.Err()
	}
	return id, nil
}
