/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The driver's trace events. Scalars only; no kernel address, no key. Their Rust side is kx/trace/mod.rs, which has
 * the same members in the same order; docs/observing.md documents them for users.
 *
 * Members have C's own types: bpftrace on a kernel without BTF knows no others.
 *
 * endpoint: the serial of an endpoint on this machine. link: a number of the connection that both sides compute from
 * its two addresses and ports, so that what one side sends and the other receives can be matched across machines.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM dmaplane

#if !defined(_DMAPLANE_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _DMAPLANE_TRACE_H

#include <linux/tracepoint.h>

#define dmaplane_show_op(op)						\
	__print_symbolic(op,						\
		{ 0, "NOP" }, { 1, "RECV" }, { 2, "WRITE" },		\
		{ 3, "WRITE_IMM" }, { 4, "READ" }, { 5, "SEND" },	\
		{ 6, "COPY" }, { 7, "FENCE" }, { 8, "CANCEL" },		\
		{ 9, "WATCH" })

#define dmaplane_show_state(state)					\
	__print_symbolic(state,						\
		{ 1, "OK" }, { 2, "ERROR" }, { 3, "TIMEOUT" },		\
		{ 4, "CANCELED" }, { 5, "REVOKED" }, { 6, "PEER_DEAD" })

#define dmaplane_show_message(kind)					\
	__print_symbolic(kind,						\
		{ 1, "CREDIT" }, { 2, "GRANT" }, { 3, "REVOKE" },	\
		{ 4, "REVOKED" }, { 5, "SPLIT" }, { 6, "PING" },	\
		{ 7, "LAST_WILL" }, { 8, "SEND" })

#define dmaplane_show_object(kind)					\
	__print_symbolic(kind,						\
		{ 1, "endpoint" }, { 2, "context" })

/* Memory of a buffer was allocated. policy and node are what the user asked for. */
TRACE_EVENT(buffer_alloc,
	TP_PROTO(u64 buffer, u64 bytes, u32 policy, s32 node),
	TP_ARGS(buffer, bytes, policy, node),
	TP_STRUCT__entry(
		__field(unsigned long long, buffer)
		__field(unsigned long long, bytes)
		__field(unsigned int, policy)
		__field(int, node)
	),
	TP_fast_assign(
		__entry->buffer = buffer;
		__entry->bytes = bytes;
		__entry->policy = policy;
		__entry->node = node;
	),
	TP_printk("buffer=%llu bytes=%llu policy=%u node=%d",
		  __entry->buffer, __entry->bytes, __entry->policy, __entry->node)
);

/* Some of a buffer's pages are not on the node that its policy named. */
TRACE_EVENT(buffer_misplaced,
	TP_PROTO(u64 buffer, u64 pages, s32 node),
	TP_ARGS(buffer, pages, node),
	TP_STRUCT__entry(
		__field(unsigned long long, buffer)
		__field(unsigned long long, pages)
		__field(int, node)
	),
	TP_fast_assign(
		__entry->buffer = buffer;
		__entry->pages = pages;
		__entry->node = node;
	),
	TP_printk("buffer=%llu pages=%llu node=%d",
		  __entry->buffer, __entry->pages, __entry->node)
);

/* The last reference to a buffer's memory was dropped. */
TRACE_EVENT(buffer_free,
	TP_PROTO(u64 buffer, u64 bytes),
	TP_ARGS(buffer, bytes),
	TP_STRUCT__entry(
		__field(unsigned long long, buffer)
		__field(unsigned long long, bytes)
	),
	TP_fast_assign(
		__entry->buffer = buffer;
		__entry->bytes = bytes;
	),
	TP_printk("buffer=%llu bytes=%llu", __entry->buffer, __entry->bytes)
);

DECLARE_EVENT_CLASS(dmaplane_region,
	TP_PROTO(u64 region, u64 buffer, u64 bytes, u32 remote),
	TP_ARGS(region, buffer, bytes, remote),
	TP_STRUCT__entry(
		__field(unsigned long long, region)
		__field(unsigned long long, buffer)
		__field(unsigned long long, bytes)
		__field(unsigned int, remote)
	),
	TP_fast_assign(
		__entry->region = region;
		__entry->buffer = buffer;
		__entry->bytes = bytes;
		__entry->remote = remote;
	),
	TP_printk("region=%llu buffer=%llu bytes=%llu remote=%u",
		  __entry->region, __entry->buffer, __entry->bytes, __entry->remote)
);

/* Memory is registered on a protection domain; remote says whether the peer may reach it. */
DEFINE_EVENT(dmaplane_region, region_register,
	TP_PROTO(u64 region, u64 buffer, u64 bytes, u32 remote),
	TP_ARGS(region, buffer, bytes, remote));

/* The registration was ended; nothing reaches the memory by it any more. */
DEFINE_EVENT(dmaplane_region, region_revoke,
	TP_PROTO(u64 region, u64 buffer, u64 bytes, u32 remote),
	TP_ARGS(region, buffer, bytes, remote));

/* The last reference to a region was dropped. */
DEFINE_EVENT(dmaplane_region, region_free,
	TP_PROTO(u64 region, u64 buffer, u64 bytes, u32 remote),
	TP_ARGS(region, buffer, bytes, remote));

/* A grant was made for the peer. */
TRACE_EVENT(grant_create,
	TP_PROTO(u64 endpoint, u64 link, u32 grant, u64 bytes, u32 rights),
	TP_ARGS(endpoint, link, grant, bytes, rights),
	TP_STRUCT__entry(
		__field(unsigned long long, endpoint)
		__field(unsigned long long, link)
		__field(unsigned long long, bytes)
		__field(unsigned int, grant)
		__field(unsigned int, rights)
	),
	TP_fast_assign(
		__entry->endpoint = endpoint;
		__entry->link = link;
		__entry->bytes = bytes;
		__entry->grant = grant;
		__entry->rights = rights;
	),
	TP_printk("endpoint=%llu link=%llu grant=%u bytes=%llu rights=%u",
		  __entry->endpoint, __entry->link, __entry->grant, __entry->bytes, __entry->rights)
);

DECLARE_EVENT_CLASS(dmaplane_grant,
	TP_PROTO(u64 endpoint, u64 link, u32 grant, u32 why),
	TP_ARGS(endpoint, link, grant, why),
	TP_STRUCT__entry(
		__field(unsigned long long, endpoint)
		__field(unsigned long long, link)
		__field(unsigned int, grant)
		__field(unsigned int, why)
	),
	TP_fast_assign(
		__entry->endpoint = endpoint;
		__entry->link = link;
		__entry->grant = grant;
		__entry->why = why;
	),
	TP_printk("endpoint=%llu link=%llu grant=%u why=%u",
		  __entry->endpoint, __entry->link, __entry->grant, __entry->why)
);

/* A grant is being taken back; why is one of GRANT_END_*. */
DEFINE_EVENT(dmaplane_grant, grant_revoke,
	TP_PROTO(u64 endpoint, u64 link, u32 grant, u32 why),
	TP_ARGS(endpoint, link, grant, why));

/* Nothing of the peer's reaches the grant's range any more. */
DEFINE_EVENT(dmaplane_grant, grant_ended,
	TP_PROTO(u64 endpoint, u64 link, u32 grant, u32 why),
	TP_ARGS(endpoint, link, grant, why));

/* An entry was taken from a submission ring. endpoint_handle and buffer_handle are its owner's names. */
TRACE_EVENT(op_submit,
	TP_PROTO(u64 trace_id, u64 user_data, u32 op, u32 endpoint_handle, u32 buffer_handle, u32 bytes),
	TP_ARGS(trace_id, user_data, op, endpoint_handle, buffer_handle, bytes),
	TP_STRUCT__entry(
		__field(unsigned long long, trace_id)
		__field(unsigned long long, user_data)
		__field(unsigned int, op)
		__field(unsigned int, endpoint_handle)
		__field(unsigned int, buffer_handle)
		__field(unsigned int, bytes)
	),
	TP_fast_assign(
		__entry->trace_id = trace_id;
		__entry->user_data = user_data;
		__entry->op = op;
		__entry->endpoint_handle = endpoint_handle;
		__entry->buffer_handle = buffer_handle;
		__entry->bytes = bytes;
	),
	TP_printk("trace_id=%llu op=%s user_data=%llu endpoint_handle=%u buffer_handle=%u bytes=%u",
		  __entry->trace_id, dmaplane_show_op(__entry->op), __entry->user_data,
		  __entry->endpoint_handle, __entry->buffer_handle, __entry->bytes)
);

/* An operation was handed to the provider. seq: its number among what consumes receives of the peer's, else 0. */
TRACE_EVENT(op_post,
	TP_PROTO(u64 trace_id, u64 endpoint, u64 link, u32 op, u32 seq, u32 bytes, u64 queued_ns),
	TP_ARGS(trace_id, endpoint, link, op, seq, bytes, queued_ns),
	TP_STRUCT__entry(
		__field(unsigned long long, trace_id)
		__field(unsigned long long, endpoint)
		__field(unsigned long long, link)
		__field(unsigned long long, queued_ns)
		__field(unsigned int, op)
		__field(unsigned int, seq)
		__field(unsigned int, bytes)
	),
	TP_fast_assign(
		__entry->trace_id = trace_id;
		__entry->endpoint = endpoint;
		__entry->link = link;
		__entry->queued_ns = queued_ns;
		__entry->op = op;
		__entry->seq = seq;
		__entry->bytes = bytes;
	),
	TP_printk("trace_id=%llu endpoint=%llu link=%llu op=%s seq=%u bytes=%u queued_ns=%llu",
		  __entry->trace_id, __entry->endpoint, __entry->link, dmaplane_show_op(__entry->op),
		  __entry->seq, __entry->bytes, __entry->queued_ns)
);

/* An operation has its one completion. endpoint is 0 where it has none; provider_ns is 0 for what was never posted. */
TRACE_EVENT(op_complete,
	TP_PROTO(u64 trace_id, u64 endpoint, u64 link, u32 op, u32 state, s32 error, u32 provider_status,
		 u32 bytes, u64 queued_ns, u64 provider_ns, u64 total_ns),
	TP_ARGS(trace_id, endpoint, link, op, state, error, provider_status, bytes, queued_ns, provider_ns, total_ns),
	TP_STRUCT__entry(
		__field(unsigned long long, trace_id)
		__field(unsigned long long, endpoint)
		__field(unsigned long long, link)
		__field(unsigned long long, queued_ns)
		__field(unsigned long long, provider_ns)
		__field(unsigned long long, total_ns)
		__field(unsigned int, op)
		__field(unsigned int, state)
		__field(int, error)
		__field(unsigned int, provider_status)
		__field(unsigned int, bytes)
	),
	TP_fast_assign(
		__entry->trace_id = trace_id;
		__entry->endpoint = endpoint;
		__entry->link = link;
		__entry->queued_ns = queued_ns;
		__entry->provider_ns = provider_ns;
		__entry->total_ns = total_ns;
		__entry->op = op;
		__entry->state = state;
		__entry->error = error;
		__entry->provider_status = provider_status;
		__entry->bytes = bytes;
	),
	TP_printk("trace_id=%llu endpoint=%llu link=%llu op=%s state=%s error=%d provider_status=%u bytes=%u queued_ns=%llu provider_ns=%llu total_ns=%llu",
		  __entry->trace_id, __entry->endpoint, __entry->link, dmaplane_show_op(__entry->op),
		  dmaplane_show_state(__entry->state), __entry->error, __entry->provider_status,
		  __entry->bytes, __entry->queued_ns, __entry->provider_ns, __entry->total_ns)
);

/* A WRITE_IMM or SEND of the peer's arrived. trace_id is that of the receive, 0 if none waited. */
TRACE_EVENT(op_arrive,
	TP_PROTO(u64 trace_id, u64 endpoint, u64 link, u32 seq, u32 imm, u32 bytes),
	TP_ARGS(trace_id, endpoint, link, seq, imm, bytes),
	TP_STRUCT__entry(
		__field(unsigned long long, trace_id)
		__field(unsigned long long, endpoint)
		__field(unsigned long long, link)
		__field(unsigned int, seq)
		__field(unsigned int, imm)
		__field(unsigned int, bytes)
	),
	TP_fast_assign(
		__entry->trace_id = trace_id;
		__entry->endpoint = endpoint;
		__entry->link = link;
		__entry->seq = seq;
		__entry->imm = imm;
		__entry->bytes = bytes;
	),
	TP_printk("trace_id=%llu endpoint=%llu link=%llu seq=%u imm=%u bytes=%u",
		  __entry->trace_id, __entry->endpoint, __entry->link, __entry->seq, __entry->imm, __entry->bytes)
);

DECLARE_EVENT_CLASS(dmaplane_message,
	TP_PROTO(u64 endpoint, u64 link, u32 kind, u32 seq, u32 number),
	TP_ARGS(endpoint, link, kind, seq, number),
	TP_STRUCT__entry(
		__field(unsigned long long, endpoint)
		__field(unsigned long long, link)
		__field(unsigned int, kind)
		__field(unsigned int, seq)
		__field(unsigned int, number)
	),
	TP_fast_assign(
		__entry->endpoint = endpoint;
		__entry->link = link;
		__entry->kind = kind;
		__entry->seq = seq;
		__entry->number = number;
	),
	TP_printk("endpoint=%llu link=%llu kind=%s seq=%u number=%u",
		  __entry->endpoint, __entry->link, dmaplane_show_message(__entry->kind),
		  __entry->seq, __entry->number)
);

/* A control message goes to the peer. seq: its number on the connection; number: the grant's, else 0. */
DEFINE_EVENT(dmaplane_message, message_send,
	TP_PROTO(u64 endpoint, u64 link, u32 kind, u32 seq, u32 number),
	TP_ARGS(endpoint, link, kind, seq, number));

/* A control message of the peer's arrived. */
DEFINE_EVENT(dmaplane_message, message_arrive,
	TP_PROTO(u64 endpoint, u64 link, u32 kind, u32 seq, u32 number),
	TP_ARGS(endpoint, link, kind, seq, number));

/* Operations begin to wait for the peer's receives. */
TRACE_EVENT(credit_stall,
	TP_PROTO(u64 endpoint, u64 link, u32 queued),
	TP_ARGS(endpoint, link, queued),
	TP_STRUCT__entry(
		__field(unsigned long long, endpoint)
		__field(unsigned long long, link)
		__field(unsigned int, queued)
	),
	TP_fast_assign(
		__entry->endpoint = endpoint;
		__entry->link = link;
		__entry->queued = queued;
	),
	TP_printk("endpoint=%llu link=%llu queued=%u",
		  __entry->endpoint, __entry->link, __entry->queued)
);

/* Such a wait is over. */
TRACE_EVENT(credit_resume,
	TP_PROTO(u64 endpoint, u64 link, u32 credits, u64 stalled_ns),
	TP_ARGS(endpoint, link, credits, stalled_ns),
	TP_STRUCT__entry(
		__field(unsigned long long, endpoint)
		__field(unsigned long long, link)
		__field(unsigned long long, stalled_ns)
		__field(unsigned int, credits)
	),
	TP_fast_assign(
		__entry->endpoint = endpoint;
		__entry->link = link;
		__entry->stalled_ns = stalled_ns;
		__entry->credits = credits;
	),
	TP_printk("endpoint=%llu link=%llu credits=%u stalled_ns=%llu",
		  __entry->endpoint, __entry->link, __entry->credits, __entry->stalled_ns)
);

/* A connection is up. */
TRACE_EVENT(endpoint_up,
	TP_PROTO(u64 endpoint, u64 link, u32 local_port, u32 peer_port),
	TP_ARGS(endpoint, link, local_port, peer_port),
	TP_STRUCT__entry(
		__field(unsigned long long, endpoint)
		__field(unsigned long long, link)
		__field(unsigned int, local_port)
		__field(unsigned int, peer_port)
	),
	TP_fast_assign(
		__entry->endpoint = endpoint;
		__entry->link = link;
		__entry->local_port = local_port;
		__entry->peer_port = peer_port;
	),
	TP_printk("endpoint=%llu link=%llu local_port=%u peer_port=%u",
		  __entry->endpoint, __entry->link, __entry->local_port, __entry->peer_port)
);

DECLARE_EVENT_CLASS(dmaplane_endpoint,
	TP_PROTO(u64 endpoint, u64 link, u32 why),
	TP_ARGS(endpoint, link, why),
	TP_STRUCT__entry(
		__field(unsigned long long, endpoint)
		__field(unsigned long long, link)
		__field(unsigned int, why)
	),
	TP_fast_assign(
		__entry->endpoint = endpoint;
		__entry->link = link;
		__entry->why = why;
	),
	TP_printk("endpoint=%llu link=%llu why=%u",
		  __entry->endpoint, __entry->link, __entry->why)
);

/* A connection is over; why is the errno of its cause. */
DEFINE_EVENT(dmaplane_endpoint, endpoint_down,
	TP_PROTO(u64 endpoint, u64 link, u32 why),
	TP_ARGS(endpoint, link, why));

/* The peer said that it ends; why is one of PEER_END_*. */
DEFINE_EVENT(dmaplane_endpoint, endpoint_last_will,
	TP_PROTO(u64 endpoint, u64 link, u32 why),
	TP_ARGS(endpoint, link, why));

/* The peer broke the protocol; why is 0. */
DEFINE_EVENT(dmaplane_endpoint, endpoint_violation,
	TP_PROTO(u64 endpoint, u64 link, u32 why),
	TP_ARGS(endpoint, link, why));

/* An endpoint or a context begins to end; id is its serial. */
TRACE_EVENT(teardown_begin,
	TP_PROTO(u32 object, u64 id),
	TP_ARGS(object, id),
	TP_STRUCT__entry(
		__field(unsigned long long, id)
		__field(unsigned int, object)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->object = object;
	),
	TP_printk("object=%s id=%llu", dmaplane_show_object(__entry->object), __entry->id)
);

/* An endpoint or a context has ended; id is its serial. */
TRACE_EVENT(teardown_end,
	TP_PROTO(u32 object, u64 id, u64 nanoseconds),
	TP_ARGS(object, id, nanoseconds),
	TP_STRUCT__entry(
		__field(unsigned long long, id)
		__field(unsigned long long, nanoseconds)
		__field(unsigned int, object)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->nanoseconds = nanoseconds;
		__entry->object = object;
	),
	TP_printk("object=%s id=%llu nanoseconds=%llu",
		  dmaplane_show_object(__entry->object), __entry->id, __entry->nanoseconds)
);

#endif /* _DMAPLANE_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH kx/trace
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE dmaplane_trace
#include <trace/define_trace.h>
