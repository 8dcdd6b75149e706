package session

import (
	"context"
	"errors"
	"io"

	"github.com/vethloom/vethloom/api/client"
	"github.com/vethloom/vethloom/api/stdio"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// The fields that hold bytes of standard streams.
const (
	stdinField  protowire.Number = 2 // of AttachRequest and ExecRequest
	stdoutField protowire.Number = 2 // of AttachResponse
	stderrField protowire.Number = 3
)

// conversation is a call to Attach or Exec.
type conversation struct {
	grpc.ClientStream
	wrap   func(outgoing) proto.Message // for all but input
	in     stdio.In
	stdout apiv1.AttachResponse_Stdout
	stderr apiv1.AttachResponse_Stderr
	piece  apiv1.AttachResponse
}

// begin sends the options.
func begin(stream grpc.ClientStream, options proto.Message, wrap func(outgoing) proto.Message) (Conversation, error) {
	if err := stream.SendMsg(options); err != nil && !errors.Is(err, io.EOF) { // EOF: Recv tells why
		return nil, err
	}
	return &conversation{ClientStream: stream, wrap: wrap, in: stdio.In{
		Fields: []protowire.Number{stdoutField, stderrField}, Other: &apiv1.AttachResponse{}}}, nil
}

func (c *conversation) send(m outgoing) error {
	if m.eof || m.size != nil {
		return c.SendMsg(c.wrap(m))
	}
	return c.SendMsg(&stdio.Out{Field: stdinField, Data: m.stdin})
}

// Recv implements [Conversation].
func (c *conversation) Recv() (*apiv1.AttachResponse, error) {
	if err := c.RecvMsg(&c.in); err != nil {
		return nil, err
	}
	switch c.in.Field {
	case stdoutField:
		c.stdout.Stdout = c.in.Data
		c.piece.Message = &c.stdout
	case stderrField:
		c.stderr.Stderr = c.in.Data
		c.piece.Message = &c.stderr
	default:
		return c.in.Other.(*apiv1.AttachResponse), nil
	}
	return &c.piece, nil
}

// OpenAttach attaches; with wait also once netd is back.
func OpenAttach(ctx context.Context, c *client.Client, o *apiv1.AttachOptions, wait bool) (Conversation, error) {
	stream, err := c.Containers.Attach(ctx, grpc.WaitForReady(wait))
	if err != nil {
		return nil, err
	}
	options := &apiv1.AttachRequest{Message: &apiv1.AttachRequest_Options{Options: o}}
	return begin(stream, options, func(m outgoing) proto.Message {
		if m.eof {
			return &apiv1.AttachRequest{Message: &apiv1.AttachRequest_CloseStdin{CloseStdin: true}}
		}
		return &apiv1.AttachRequest{Message: &apiv1.AttachRequest_Resize{Resize: m.size}}
	})
}

// OpenExec runs a command; with back it goes on with one, once netd is back.
func OpenExec(ctx context.Context, c *client.Client, o *apiv1.ExecOptions, back *Back) (Conversation, error) {
	if back != nil {
		o = &apiv1.ExecOptions{Container: o.GetContainer(), Stdin: o.GetStdin(), Size: o.GetSize(),
			Resume: &apiv1.ExecResume{Id: back.ID, Stdout: back.Stdout, Stderr: back.Stderr}}
	}
	stream, err := c.Containers.Exec(ctx, grpc.WaitForReady(back != nil))
	if err != nil {
		return nil, err
	}
	options := &apiv1.ExecRequest{Message: &apiv1.ExecRequest_Options{Options: o}}
	return begin(stream, options, func(m outgoing) proto.Message {
		if m.eof {
			return &apiv1.ExecRequest{Message: &apiv1.ExecRequest_CloseStdin{CloseStdin: true}}
		}
		return &apiv1.ExecRequest{Message: &apiv1.ExecRequest_Resize{Resize: m.size}}
	})
}
