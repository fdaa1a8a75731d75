//! Rules as lists of the kernel's expressions.
//!
//! A header is read only behind a check that the packet carries it (`meta nfproto`, `meta l4proto`). As nft does, we
//! put that check in front unless the rule has established the protocol before, by a check of ours or one of its own.

use netlink_packet_netfilter::nftables::{
    Expressions, MetaKey, NfTablesMessage, Operator as KernelOperator, SetElementMessage, SetFlags,
    SetMessage,
};
use nftables::expr::{BinaryOperation, Expression, Map, NamedExpression, Prefix, SetItem, Verdict};
use nftables::schema::Rule;
use nftables::stmt::{
    Counter, JumpTarget, Mangle, Match, NAT, NATFamily, Operator, Reject, RejectType, Statement,
    VerdictMap,
};
use nftables::types::{NfFamily, RejectCode};

use super::kernel::{self, Nat, SetName, register};
use super::set::{self, ANONYMOUS_NAME};
use super::{Encoder, Pair};
use crate::nft::DataType;
use crate::nft::error::Reason;
use crate::nft::schema::{Data, Shape, family_number};
use crate::nft::selector::{CT_MARK, Load, NFPROTO_IPV4, NFPROTO_IPV6, Needs, Selector, selector};

const IPPROTO_TCP: u8 = 6;

/// The expressions of a rule. Anonymous sets become messages of their own.
pub(super) fn expressions(
    encoder: &mut Encoder<'_>,
    rule: &Rule<'_>,
) -> Result<Vec<Expressions>, Reason> {
    let network = match rule.family {
        NfFamily::IP => Some(NFPROTO_IPV4),
        NfFamily::IP6 => Some(NFPROTO_IPV6),
        NfFamily::INet | NfFamily::ARP | NfFamily::Bridge | NfFamily::NetDev => None,
    };
    let mut compiler = Compiler {
        encoder,
        family: rule.family,
        table: &rule.table,
        network,
        transport: None,
        code: Vec::new(),
    };
    for statement in rule.expr.iter() {
        compiler.statement(statement)?;
    }
    Ok(compiler.code)
}

/// The user data of a rule: record type 0, length, text with its zero.
pub(super) fn comment(text: &str) -> Result<Vec<u8>, Reason> {
    let len = u8::try_from(text.len() + 1).ok().filter(|len| *len <= 128);
    let mut bytes = vec![0, len.ok_or_else(|| Reason::unsupported(&text))?];
    bytes.extend(text.as_bytes());
    bytes.push(0);
    Ok(bytes)
}

struct Compiler<'a, 'b> {
    encoder: &'a mut Encoder<'b>,
    family: NfFamily,
    table: &'a str,
    /// The network protocol of every packet that gets this far in the rule, when known.
    network: Option<u8>,
    /// Likewise the transport protocol.
    transport: Option<u8>,
    code: Vec<Expressions>,
}

impl Compiler<'_, '_> {
    fn statement(&mut self, statement: &Statement<'_>) -> Result<(), Reason> {
        match statement {
            Statement::Accept(_) => self.verdict(&Verdict::Accept),
            Statement::Drop(_) => self.verdict(&Verdict::Drop),
            Statement::Continue(_) => self.verdict(&Verdict::Continue),
            Statement::Return(_) => self.verdict(&Verdict::Return),
            Statement::Jump(JumpTarget { target }) => self.verdict(&Verdict::Jump(JumpTarget {
                target: target.as_ref().into(),
            })),
            Statement::Goto(JumpTarget { target }) => self.verdict(&Verdict::Goto(JumpTarget {
                target: target.as_ref().into(),
            })),
            Statement::Match(matching) => self.matching(matching)?,
            Statement::Counter(Counter::Anonymous(_)) => self.code.push(kernel::counter()),
            Statement::Mangle(mangle) => self.mangle(mangle)?,
            Statement::SNAT(Some(nat)) => self.nat(Nat::Source, nat)?,
            Statement::DNAT(Some(nat)) => self.nat(Nat::Destination, nat)?,
            Statement::Masquerade(None) => self.code.push(kernel::bare("masq")),
            Statement::Reject(reject) => self.reject(reject.as_ref())?,
            Statement::Notrack => self.code.push(kernel::bare("notrack")),
            Statement::VerdictMap(map) => self.verdict_map(map)?,
            other => return Err(Reason::unsupported(other)),
        }
        Ok(())
    }

    fn verdict(&mut self, verdict: &Verdict<'_>) {
        self.code.push(kernel::verdict(verdict));
    }

    fn matching(&mut self, matching: &Match<'_>) -> Result<(), Reason> {
        let inverted = match matching.op {
            Operator::EQ | Operator::IN => false,
            Operator::NEQ => true,
            Operator::AND
            | Operator::OR
            | Operator::XOR
            | Operator::LSHIFT
            | Operator::RSHIFT
            | Operator::LT
            | Operator::GT
            | Operator::LEQ
            | Operator::GEQ => return Err(Reason::unsupported(matching)),
        };
        match &matching.right {
            Expression::String(name) if name.starts_with('@') => {
                self.load_key(&matching.left)?;
                let set = SetName::Named(name[1..].to_owned());
                self.code.push(kernel::lookup(&set, register(0), inverted));
                Ok(())
            }
            Expression::Named(NamedExpression::Set(items)) => {
                let types = self.load_key(&matching.left)?;
                let set = self.anonymous_set(types, None, items)?;
                self.code.push(kernel::lookup(&set, register(0), inverted));
                Ok(())
            }
            _ => self.comparison(matching, inverted),
        }
    }

    fn comparison(&mut self, matching: &Match<'_>, inverted: bool) -> Result<(), Reason> {
        if let Expression::BinaryOperation(operation) = &matching.left {
            return self.masked_comparison(operation, &matching.right, inverted);
        }
        let selector = selector(&matching.left)?;
        self.require(&selector)?;
        let operator = operator(inverted);
        match &matching.right {
            right if selector.datatype.is_bitmask() && matching.op == Operator::IN => {
                self.load(&selector, 0);
                let mask = bits(selector.datatype, right)?;
                let zero = vec![0; mask.len()];
                self.code
                    .push(kernel::bitwise(register(0), mask, zero.clone()));
                self.code
                    .push(kernel::compare(KernelOperator::NotEqual, register(0), zero));
            }
            Expression::Named(NamedExpression::Prefix(prefix)) => {
                self.prefix(&selector, prefix, operator)?;
            }
            Expression::Range(_) => {
                let (first, last) = selector.datatype.encode_span(&matching.right)?;
                self.load(&selector, 0);
                self.code
                    .push(kernel::range(register(0), inverted, first, last));
            }
            right => {
                let value = selector.datatype.encode(right)?;
                self.load(&selector, 0);
                if !inverted {
                    self.establish(&selector, &value);
                }
                self.code
                    .push(kernel::compare(operator, register(0), value));
            }
        }
        Ok(())
    }

    /// `meta mark & mask == value`
    fn masked_comparison(
        &mut self,
        operation: &BinaryOperation<'_>,
        right: &Expression<'_>,
        inverted: bool,
    ) -> Result<(), Reason> {
        let BinaryOperation::AND(left, mask) = operation else {
            return Err(Reason::unsupported(operation));
        };
        let selector = selector(left)?;
        let mask = selector.datatype.encode(mask)?;
        let value = selector.datatype.encode(right)?;
        self.require(&selector)?;
        self.load(&selector, 0);
        let zero = vec![0; mask.len()];
        self.code.push(kernel::bitwise(register(0), mask, zero));
        self.code
            .push(kernel::compare(operator(inverted), register(0), value));
        Ok(())
    }

    /// Whole bytes of a prefix are compared without the rest of the address, as nft does and prints.
    fn prefix(
        &mut self,
        selector: &Selector,
        prefix: &Prefix<'_>,
        operator: KernelOperator,
    ) -> Result<(), Reason> {
        let (mut value, mask) = selector.datatype.encode_prefix(prefix)?;
        match selector.load {
            Load::Payload(base, offset, _) if prefix.len > 0 && prefix.len.is_multiple_of(8) => {
                let len = prefix.len / 8;
                value.truncate(prefix.len as usize / 8);
                self.code
                    .push(kernel::payload(base, offset, len, register(0)));
            }
            _ => {
                self.load(selector, 0);
                let zero = vec![0; mask.len()];
                self.code.push(kernel::bitwise(register(0), mask, zero));
            }
        }
        self.code
            .push(kernel::compare(operator, register(0), value));
        Ok(())
    }

    fn mangle(&mut self, mangle: &Mangle<'_>) -> Result<(), Reason> {
        let target = selector(&mangle.key)?;
        match &mangle.value {
            Expression::BinaryOperation(operation) => {
                let (source, mask, xor) = mark_arithmetic(operation)?;
                self.load(&source, 0);
                self.code.push(kernel::bitwise(register(0), mask, xor));
            }
            value => match selector(value) {
                Ok(source) if source.datatype == target.datatype => self.load(&source, 0),
                Ok(_) => return Err(Reason::unsupported(mangle)),
                Err(_) => self.code.push(kernel::immediate(
                    register(0),
                    target.datatype.encode(value)?,
                )),
            },
        }
        match target.load {
            Load::Meta(MetaKey::Mark) => {
                self.code.push(kernel::set_meta(MetaKey::Mark, register(0)));
            }
            Load::Ct(CT_MARK, None) => self.code.push(kernel::set_ct(CT_MARK, register(0))),
            Load::Meta(_) | Load::Ct(..) | Load::FibAddressType(_) | Load::Payload(..) => {
                return Err(Reason::unsupported(mangle));
            }
        }
        Ok(())
    }

    fn nat(&mut self, kind: Nat, nat: &NAT<'_>) -> Result<(), Reason> {
        if nat.flags.is_some() {
            return Err(Reason::unsupported(nat));
        }
        let (address, port_follows) = match &nat.addr {
            None => (None, false),
            Some(Expression::Named(NamedExpression::Map(map))) => self.nat_map(map)?,
            Some(address) => {
                let datatype = address_type(address, nat.family)?;
                let value = datatype.encode(address)?;
                self.code.push(kernel::immediate(register(0), value));
                (Some(datatype), false)
            }
        };
        let port_slot = match address {
            Some(DataType::Ipv4Addr) if port_follows => 1,
            Some(_) => 4,
            None => 0,
        };
        if let Some(port) = &nat.port {
            let value = DataType::InetService.encode(port)?;
            self.code
                .push(kernel::immediate(register(port_slot), value));
        }
        let family = match address {
            Some(DataType::Ipv4Addr) => NFPROTO_IPV4,
            Some(_) => NFPROTO_IPV6,
            None => family_number(self.family),
        };
        let has_port = port_follows || nat.port.is_some();
        self.code.push(kernel::nat(
            kind,
            family,
            address.map(|_| register(0)),
            has_port.then(|| register(port_slot)),
        ));
        Ok(())
    }

    /// Loads address, and port if the map has one; tells the type of address and whether a port follows it.
    fn nat_map(&mut self, map: &Map<'_>) -> Result<(Option<DataType>, bool), Reason> {
        let Expression::String(name) = &map.data else {
            return Err(Reason::unsupported(map));
        };
        let name = name
            .strip_prefix('@')
            .ok_or_else(|| Reason::unsupported(map))?;
        let shape = self.encoder.shape(self.family, self.table, name)?;
        let data = match &shape.data {
            Some(Data::Value(types)) => types.as_slice(),
            Some(Data::Verdict) | None => &[],
        };
        let (address, port_follows) = match data {
            [address @ (DataType::Ipv4Addr | DataType::Ipv6Addr)] => (*address, false),
            [
                address @ (DataType::Ipv4Addr | DataType::Ipv6Addr),
                DataType::InetService,
            ] => (*address, true),
            _ => return Err(Reason::unsupported(map)),
        };
        self.load_key(&map.key)?;
        let set = SetName::Named(name.to_owned());
        self.code.push(kernel::map(&set, register(0), register(0)));
        Ok((Some(address), port_follows))
    }

    fn verdict_map(&mut self, map: &VerdictMap<'_>) -> Result<(), Reason> {
        let types = self.load_key(&map.key)?;
        let set = match &map.data {
            Expression::String(name) if name.starts_with('@') => {
                SetName::Named(name[1..].to_owned())
            }
            Expression::Named(NamedExpression::Set(items)) => {
                self.anonymous_set(types, Some(Data::Verdict), items)?
            }
            other => return Err(Reason::unsupported(other)),
        };
        let verdict = netlink_packet_netfilter::nftables::Register::Verdict;
        self.code.push(kernel::map(&set, register(0), verdict));
        Ok(())
    }

    fn reject(&mut self, reject: Option<&Reject>) -> Result<(), Reason> {
        /// `NFT_REJECT_*`
        const UNREACHABLE: u32 = 0;
        const RESET: u32 = 1;
        const ICMPX: u32 = 2;
        let (kind, code) = match reject.map(|reject| (reject._type, reject.expr)) {
            Some((Some(RejectType::TCPReset), None)) => {
                self.require_transport(IPPROTO_TCP)?;
                (RESET, 0)
            }
            Some((Some(RejectType::ICMPX), code)) => (ICMPX, icmpx_code(code)?),
            // The same answer as icmpx port-unreachable, in the family that the rule has established.
            None | Some((None, None)) => match self.network {
                Some(NFPROTO_IPV4) => (UNREACHABLE, 3),
                Some(_) => (UNREACHABLE, 4),
                None => (ICMPX, 1),
            },
            Some(_) => return Err(Reason::unsupported(&reject)),
        };
        self.code.push(kernel::reject(kind, code));
        Ok(())
    }

    /// Loads a selector or a concatenation into the registers from the first on, each part in whole words.
    fn load_key(&mut self, key: &Expression<'_>) -> Result<Vec<DataType>, Reason> {
        let parts = match key {
            Expression::Named(NamedExpression::Concat(parts)) => parts.as_slice(),
            single => std::slice::from_ref(single),
        };
        let selectors = parts.iter().map(selector).collect::<Result<Vec<_>, _>>()?;
        for selector in &selectors {
            self.require(selector)?;
        }
        let mut slot = 0;
        for selector in &selectors {
            self.load(selector, slot);
            slot += words(selector.datatype);
        }
        // Sixteen registers; the kernel would refuse more.
        if slot > 16 {
            return Err(Reason::unsupported(key));
        }
        Ok(selectors.iter().map(|selector| selector.datatype).collect())
    }

    fn load(&mut self, selector: &Selector, slot: u32) {
        let to = register(slot);
        self.code.push(match selector.load {
            Load::Meta(key) => kernel::meta(key, to),
            Load::Ct(key, direction) => kernel::ct(key, direction, to),
            Load::FibAddressType(flags) => kernel::fib_address_type(flags, to),
            Load::Payload(base, offset, len) => kernel::payload(base, offset, len, to),
        });
    }

    fn require(&mut self, selector: &Selector) -> Result<(), Reason> {
        match selector.needs {
            None => Ok(()),
            Some(Needs::Network(protocol)) => self.require_network(protocol),
            Some(Needs::Transport(protocol)) => self.require_transport(protocol),
        }
    }

    fn require_network(&mut self, protocol: u8) -> Result<(), Reason> {
        if !settle(&mut self.network, protocol)? {
            self.code.push(kernel::meta(MetaKey::Nfproto, register(0)));
            self.code.push(kernel::compare(
                KernelOperator::Equal,
                register(0),
                vec![protocol],
            ));
        }
        Ok(())
    }

    fn require_transport(&mut self, protocol: u8) -> Result<(), Reason> {
        if !settle(&mut self.transport, protocol)? {
            self.code.push(kernel::meta(MetaKey::L4Proto, register(0)));
            self.code.push(kernel::compare(
                KernelOperator::Equal,
                register(0),
                vec![protocol],
            ));
        }
        Ok(())
    }

    /// Remembers what a comparison for equality tells about the rest of the rule.
    fn establish(&mut self, selector: &Selector, value: &[u8]) {
        match (selector.load, value) {
            (Load::Meta(MetaKey::Nfproto), [protocol]) => self.network = Some(*protocol),
            (Load::Meta(MetaKey::L4Proto), [protocol]) => self.transport = Some(*protocol),
            (Load::Meta(_) | Load::Ct(..) | Load::FibAddressType(_) | Load::Payload(..), _) => {}
        }
    }

    fn anonymous_set(
        &mut self,
        key: Vec<DataType>,
        data: Option<Data>,
        items: &[SetItem<'_>],
    ) -> Result<SetName, Reason> {
        let pairs = items.iter().map(item_pair).collect::<Result<Vec<_>, _>>()?;
        let shape = Shape {
            key,
            data,
            interval: pairs.iter().any(|(key, _)| is_interval(key)),
        };
        let lists = set::element_lists(&shape, &pairs)?;
        let size = u32::try_from(lists.iter().map(Vec::len).sum::<usize>()).ok();
        let id = self.encoder.take_set_id();
        let flags = SetFlags::Anonymous | SetFlags::Constant;
        let attributes = set::declaration(self.table, ANONYMOUS_NAME, id, &shape, flags, size);
        self.encoder.push(
            self.family,
            super::ADD,
            NfTablesMessage::NewSet(SetMessage { attributes }),
        );
        for attributes in set::element_messages(self.table, ANONYMOUS_NAME, Some(id), lists) {
            self.encoder.push(
                self.family,
                super::ADD,
                NfTablesMessage::NewSetElement(SetElementMessage { attributes }),
            );
        }
        Ok(SetName::Anonymous(id))
    }
}

/// Whether `protocol` was established before; it is now.
fn settle(established: &mut Option<u8>, protocol: u8) -> Result<bool, Reason> {
    match *established {
        Some(before) if before == protocol => Ok(true),
        Some(before) => Err(Reason::Conflict {
            needed: protocol,
            established: before,
        }),
        None => {
            *established = Some(protocol);
            Ok(false)
        }
    }
}

fn operator(inverted: bool) -> KernelOperator {
    if inverted {
        KernelOperator::NotEqual
    } else {
        KernelOperator::Equal
    }
}

fn words(datatype: DataType) -> u32 {
    u32::try_from(datatype.facts().len.div_ceil(4)).unwrap_or(u32::MAX)
}

/// One bit mask of a name or a list of names.
fn bits(datatype: DataType, value: &Expression<'_>) -> Result<Vec<u8>, Reason> {
    let Expression::List(names) = value else {
        return datatype.encode(value);
    };
    let mut mask = vec![0; datatype.facts().len];
    for name in names {
        for (bits, more) in mask.iter_mut().zip(datatype.encode(name)?) {
            *bits |= more;
        }
    }
    Ok(mask)
}

/// What `meta mark | number` and `meta mark & number` read, and the mask and xor that compute them.
fn mark_arithmetic(
    operation: &BinaryOperation<'_>,
) -> Result<(Selector, Vec<u8>, Vec<u8>), Reason> {
    let (source, number, is_or) = match operation {
        BinaryOperation::AND(source, number) => (source, number, false),
        BinaryOperation::OR(operands) if operands.len() == 2 => (&operands[0], &operands[1], true),
        BinaryOperation::OR(_)
        | BinaryOperation::XOR(..)
        | BinaryOperation::LSHIFT(..)
        | BinaryOperation::RSHIFT(..) => return Err(Reason::unsupported(operation)),
    };
    let source = selector(source)?;
    if source.datatype != DataType::Mark {
        return Err(Reason::unsupported(operation));
    }
    let number = source.datatype.encode(number)?;
    if is_or {
        Ok((source, number.iter().map(|byte| !byte).collect(), number))
    } else {
        let zero = vec![0; number.len()];
        Ok((source, number, zero))
    }
}

fn address_type(address: &Expression<'_>, family: Option<NATFamily>) -> Result<DataType, Reason> {
    match (family, address) {
        (Some(NATFamily::IP), _) => Ok(DataType::Ipv4Addr),
        (Some(NATFamily::IP6), _) => Ok(DataType::Ipv6Addr),
        (None, Expression::String(text)) if text.contains(':') => Ok(DataType::Ipv6Addr),
        (None, Expression::String(_)) => Ok(DataType::Ipv4Addr),
        (None, other) => Err(Reason::unsupported(other)),
    }
}

fn icmpx_code(code: Option<RejectCode>) -> Result<u8, Reason> {
    match code {
        Some(RejectCode::NoRoute) => Ok(0),
        Some(RejectCode::PortUnreach) => Ok(1),
        Some(RejectCode::HostUnreach) => Ok(2),
        Some(RejectCode::AdminProhibited) => Ok(3),
        None
        | Some(
            RejectCode::NetUnreach
            | RejectCode::ProtUnreach
            | RejectCode::NetProhibited
            | RejectCode::HostProhibited
            | RejectCode::AddrUnreach,
        ) => Err(Reason::unsupported(&code)),
    }
}

fn item_pair<'a, 'b>(item: &'a SetItem<'b>) -> Result<Pair<'a, 'b>, Reason> {
    match item {
        SetItem::Element(key) => Ok((key, None)),
        SetItem::Mapping(key, data) => Ok((key, Some(data))),
        SetItem::MappingStatement(..) => Err(Reason::unsupported(item)),
    }
}

fn is_interval(key: &Expression<'_>) -> bool {
    match key {
        Expression::Named(NamedExpression::Concat(parts)) => parts.iter().any(is_interval),
        single => matches!(
            single,
            Expression::Range(_) | Expression::Named(NamedExpression::Prefix(_))
        ),
    }
}
